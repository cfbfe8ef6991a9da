cat > train.py <<'END'
import os, signal
import torch
from torch import distributed

distributed.init_process_group("gloo")
distributed.all_reduce(torch.ones(4))
if distributed.get_rank() == 1:
    os.kill(os.getpid(), signal.SIGKILL)
distributed.all_reduce(torch.ones(4))
END
python -m torch.distributed.run --standalone --nproc_per_node 2 train.py
