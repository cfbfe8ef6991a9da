cat > train.py <<'END'
import ctypes, faulthandler

faulthandler.enable()
ctypes.string_at(0)
END
python -m torch.distributed.run --standalone --nproc_per_node 1 train.py
