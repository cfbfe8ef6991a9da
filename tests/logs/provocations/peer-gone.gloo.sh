cat > train.py <<'END'
import os
import torch
from torch import distributed

distributed.init_process_group("gloo")
distributed.all_reduce(torch.ones(4))
if distributed.get_rank() == 1:
    os._exit(0)
distributed.all_reduce(torch.ones(4))
END
python -m torch.distributed.run --standalone --nproc_per_node 2 train.py
