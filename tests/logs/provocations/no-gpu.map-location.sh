python - <<'END'
import torch

torch.ones(2).to("cuda:0")
END
