"""A finished run becomes a page, a picture and a JSON file."""
