python - <<'END'
import torch

torch.nn.Linear(8, 1).to(torch.bfloat16)(torch.ones(4, 8))
END
