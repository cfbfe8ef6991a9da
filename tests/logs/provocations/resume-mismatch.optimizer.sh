python - <<'END'
import torch

saved = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2)) for _ in range(3)]).state_dict()
torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))]).load_state_dict(saved)
END
