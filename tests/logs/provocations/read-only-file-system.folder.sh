unshare -m sh -c 'mount -t tmpfs -o ro tmpfs /mnt; exec python -c "
import os
os.makedirs(\"/mnt/runs/output\")"'
