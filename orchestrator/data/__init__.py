"""Data sets on their way in: readers, checks, split and ledger."""
