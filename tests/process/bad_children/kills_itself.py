"""Ends by SIGKILL, as when the kernel runs out of memory."""

import os
import signal

os.kill(os.getpid(), signal.SIGKILL)
