"""What a model does to training rows before a training: it scores their documents, or finds them harder ones."""
