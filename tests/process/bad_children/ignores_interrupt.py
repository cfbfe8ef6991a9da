"""Ends on TERM, not on INT."""

import signal
import sys
import time

signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.stdout.write("ready\n")
sys.stdout.flush()
time.sleep(60)
