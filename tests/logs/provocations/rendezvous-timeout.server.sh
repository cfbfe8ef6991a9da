python - <<'END'
from datetime import timedelta
from torch.distributed import init_process_group

init_process_group("gloo", init_method="tcp://127.0.0.1:29672", world_size=2, rank=1, timeout=timedelta(seconds=3))
END
