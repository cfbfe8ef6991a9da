cat > train.py <<'END'
import time
from datetime import timedelta
import torch
from torch import distributed

distributed.init_process_group("gloo", timeout=timedelta(seconds=4))
if distributed.get_rank() == 1:
    time.sleep(30)
distributed.all_reduce(torch.ones(4))
END
python -m torch.distributed.run --standalone --nproc_per_node 2 train.py
