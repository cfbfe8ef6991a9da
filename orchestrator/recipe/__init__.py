"""A recipe on its way in: YAML text with places, its schema, and every problem at once."""
