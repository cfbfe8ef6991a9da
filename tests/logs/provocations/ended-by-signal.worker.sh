cat > train.py <<'END'
import os, signal, time

os.kill(os.getpid(), signal.SIGTERM)
time.sleep(5)
END
python -m torch.distributed.run --standalone --nproc_per_node 1 train.py
