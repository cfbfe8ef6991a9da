"""Provokes the failures of provocations/ for real, and keeps the end of what they print as captured/failed.NAME.log.

    python tests/logs/provoke.py [NAME …]    # needs the backends, a C compiler, and root (small full disks are mounted)

A provocation is a shell script named RULE.VARIANT.sh; it runs in an empty folder, which it may call /data, with the
backends' Python first in PATH and this checkout as $ORCH. Machine paths are replaced: the environment becomes /venv, the
folder /data. Nothing else is edited. What ends with exit code 0 is an error: nothing was provoked.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
KEPT_LINES = 90
LIMIT_S = 240


def capture(script: Path) -> str:
    """Run one provocation; return its stdout, then its stderr, as Orch reads them."""
    with tempfile.TemporaryDirectory(prefix="provoked-") as folder:
        environment = {
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
            "HOME": folder,
            "HF_HOME": f"{folder}/hub",
            "OMP_NUM_THREADS": "1",
            "PYTHONPYCACHEPREFIX": f"{folder}/pycache",
            "PYTHONUNBUFFERED": "1",
            "ORCH": str(HERE.parent.parent),
        }
        text = script.read_text(encoding="utf-8").replace("/data", folder)
        argv = ["bash", "-c", text]
        child = subprocess.Popen(
            argv, cwd=folder, env=environment, stdout=-1, stderr=-1, stdin=subprocess.DEVNULL, start_new_session=True
        )
        try:
            out, err = child.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            raise
        if child.returncode == 0:
            raise RuntimeError(f"{script.name} ended well: nothing was provoked")
    return _tidy(out.decode(errors="replace") + "\n" + err.decode(errors="replace"), folder)


def _tidy(text: str, folder: str) -> str:
    venv = str(Path(sys.executable).parent.parent)
    base = f"{sys.base_prefix}/lib"
    text = text.replace(venv, "/venv").replace(folder, "/data").replace(base, "/usr/lib")
    text = re.sub(r"host      : \S+", "host      : localhost", text.replace(os.uname().nodename, "localhost"))
    return "\n".join(text.strip("\n").split("\n")[-KEPT_LINES:]) + "\n"


if __name__ == "__main__":
    chosen = sys.argv[1:] or sorted(path.name.removesuffix(".sh") for path in (HERE / "provocations").glob("*.sh"))
    for name in chosen:
        log = capture(HERE / "provocations" / f"{name}.sh")
        (HERE / "captured" / f"failed.{name}.log").write_text(log, encoding="utf-8")
        sys.stdout.write(f"{name}: {log.rstrip().splitlines()[-1][:150]}\n")
        sys.stdout.flush()
