"""One row becomes a canonical record, or the one fault for which it is dropped."""
