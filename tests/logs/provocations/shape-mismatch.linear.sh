python - <<'END'
import torch

torch.nn.Linear(1024, 1)(torch.ones(4, 768))
END
