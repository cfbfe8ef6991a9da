python - <<'END'
import torch

torch.nn.Linear(8, 2).load_state_dict(torch.nn.Linear(16, 2).state_dict())
END
