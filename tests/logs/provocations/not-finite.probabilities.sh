python - <<'END'
import torch

torch.multinomial(torch.tensor([float("nan"), 0.5]), 1)
END
