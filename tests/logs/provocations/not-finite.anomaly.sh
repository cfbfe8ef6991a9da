python - <<'END'
import torch

weight = torch.zeros(1, requires_grad=True)
with torch.autograd.detect_anomaly():
    (torch.sqrt(weight) * 0).backward()
END
