python - <<'END'
import torch

torch.ones(2) + torch.ones(2, device="meta")
END
