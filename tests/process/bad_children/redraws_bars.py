"""Writes tqdm-like bars, a character cut in two, and no final line end."""

import sys
import time

out = sys.stderr.buffer
for step in range(1, 4):
    out.write(f"\r {step * 33}%|{'█' * step}{' ' * (3 - step)}| {step}/3 [00:00<00:00, 2.5it/s]".encode())
    out.flush()
    time.sleep(0.05)
half = "é".encode()
out.write(b"\ncaf" + half[:1])
out.flush()
time.sleep(0.3)
out.write(half[1:] + b" done")
out.flush()
