ulimit -v 6000000
python - <<'END'
import torch
torch.empty(10_000_000_000)
END
