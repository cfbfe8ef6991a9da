cat > save.py <<'END'
import torch

torch.save({"weight": torch.ones(10_000_000)}, "/mnt/optimizer.pt")
END
unshare -m sh -c 'mount -t tmpfs -o size=2m tmpfs /mnt; exec python save.py'
