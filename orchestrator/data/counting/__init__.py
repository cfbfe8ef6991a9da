"""Tokens, lengths and statistics of the records, in bounded memory."""
