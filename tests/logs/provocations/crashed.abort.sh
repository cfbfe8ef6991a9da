cat > train.py <<'END'
import os

os.abort()
END
python -m torch.distributed.run --standalone --nproc_per_node 1 train.py
