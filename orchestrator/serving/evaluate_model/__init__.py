"""Any models measured on any data, without a recipe or a training."""
