cat > train.py <<'END'
import torch
from torch import distributed
from torch.distributed.elastic.multiprocessing.errors import record

@record
def main():
    distributed.init_process_group("gloo")
    distributed.all_reduce(torch.ones(4))
    if distributed.get_rank() == 1:
        {"query": "a"}["pos"]
    distributed.all_reduce(torch.ones(4))

main()
END
python -m torch.distributed.run --standalone --nproc_per_node 2 train.py
