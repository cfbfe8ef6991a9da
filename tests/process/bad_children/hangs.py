"""Two workers in sessions of their own take some steps and hang at the same one; one of them is then suspended.

hangs.py [--redraws]      with --redraws their bar goes on drawing itself
"""

import os
import signal
import subprocess
import sys
import threading
import time


def wait_for_the_other_rank() -> None:
    threading.Event().wait()


def draw(seconds: int) -> None:
    sys.stderr.write(f"\r 30%|███       | 3/10 [00:{seconds:02d}<00:07,  1.00it/s]")
    sys.stderr.flush()


if __name__ == "__main__" and "--rank" not in sys.argv:
    workers = [
        subprocess.Popen([sys.executable, *sys.argv, "--rank", str(rank)], start_new_session=True) for rank in (0, 1)
    ]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.exit(max(worker.wait() for worker in workers))

if sys.argv[-1] == "0":
    draw(1)
    if "--redraws" in sys.argv:
        seconds = 1
        while True:
            time.sleep(0.02)
            seconds = seconds % 59 + 1
            draw(seconds)
    wait_for_the_other_rank()
os.kill(os.getpid(), signal.SIGSTOP)
