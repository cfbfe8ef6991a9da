"""Starts a worker in a session of its own, as torchrun does. Argument: how many seconds the parent stays."""

import subprocess
import sys
import time

WORKER = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.stdout.write("working\\n")
sys.stdout.flush()
time.sleep(60)
"""

subprocess.Popen([sys.executable, "-c", WORKER], start_new_session=True)
sys.stdout.write("ready\n")
sys.stdout.flush()
time.sleep(float(sys.argv[1]))
