"""A stage that only takes its time: a launcher, and a worker in a session of its own that writes one file.

fake_stage.py FILE SECONDS [worker]

It waits while there is a file `pause.working` beside the folder of FILE.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path


def main() -> int:
    file, seconds = Path(sys.argv[1]), float(sys.argv[2])
    if "worker" not in sys.argv[3:]:
        return subprocess.Popen([sys.executable, *sys.argv, "worker"], start_new_session=True).wait()
    file.parent.mkdir(parents=True, exist_ok=True)
    (file.parent / "worker.pid").write_text(str(os.getpid()))
    end = time.monotonic() + seconds
    while time.monotonic() < end or (file.parent.parent / "pause.working").exists():
        time.sleep(0.02)
    file.write_text("done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
