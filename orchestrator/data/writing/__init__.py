"""Records become the files that trainers and evaluation read, all together or not at all."""
