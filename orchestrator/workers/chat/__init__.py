"""LLMs: scored by the loss of held-out answers and by what they write, packaged with the template of their training."""
