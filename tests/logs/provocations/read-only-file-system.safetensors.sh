unshare -m sh -c 'mount -t tmpfs -o ro tmpfs /mnt; exec python -c "
import torch
from safetensors.torch import save_file
save_file({\"weight\": torch.ones(3)}, \"/mnt/model.safetensors\")"'
