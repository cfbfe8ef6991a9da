cat > save.py <<'END'
import torch
from safetensors.torch import save_file

save_file({"weight": torch.ones(10_000_000)}, "/mnt/model.safetensors")
END
unshare -m sh -c 'mount -t tmpfs -o size=2m tmpfs /mnt; exec python save.py'
