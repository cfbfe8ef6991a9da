cat > train.py <<'END'
import torch
from torch import distributed, nn

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(2, 1), nn.Linear(2, 1)
    def forward(self, rows):
        return self.used(rows)

distributed.init_process_group("gloo")
model = nn.parallel.DistributedDataParallel(Model())
for _ in range(2):
    model(torch.ones(4, 2)).sum().backward()
END
python -m torch.distributed.run --standalone --nproc_per_node 2 train.py
