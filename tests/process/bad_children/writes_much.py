"""Writes 20 MB to both streams as fast as it can: nothing may block it."""

import sys

line = "x" * 199 + "\n"
for _ in range(50_000):
    sys.stdout.write(line)
    sys.stderr.write(line)
