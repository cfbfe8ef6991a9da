python - <<'END'
from datetime import timedelta
from torch.distributed import init_process_group

init_process_group("gloo", init_method="tcp://127.0.0.1:29671", world_size=2, rank=0, timeout=timedelta(seconds=3))
END
