cat > train.py <<'END'
import os, signal, time

os.kill(os.getpid(), signal.SIGINT)
time.sleep(5)
END
python train.py
