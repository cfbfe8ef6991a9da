python - <<'END'
import torch

model = torch.nn.Linear(2, 1).requires_grad_(False)
model(torch.ones(4, 2)).sum().backward()
END
