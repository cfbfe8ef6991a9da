"""All rules, ranked: the first that matches wins.

What names its cause stands before what is only a consequence; what names a thing, before what names a kind of thing. A
new rule goes into the file of its area, with a captured log in tests/logs/captured/ and a row in
docs/troubleshooting.md. The tests hold the rules against every captured log.
"""

from __future__ import annotations

from orchestrator.logs.rule import Rule
from orchestrator.logs.rules.arguments import ARGUMENTS
from orchestrator.logs.rules.checkpoints import CHECKPOINTS
from orchestrator.logs.rules.data import DATA
from orchestrator.logs.rules.devices import DEVICES
from orchestrator.logs.rules.disk import DISK, FILES
from orchestrator.logs.rules.distributed import DISTRIBUTED, ENDINGS
from orchestrator.logs.rules.hub import HUB
from orchestrator.logs.rules.memory import MEMORY
from orchestrator.logs.rules.model import MODEL
from orchestrator.logs.rules.packages import PACKAGES
from orchestrator.logs.rules.workers import WORKERS

RULES: tuple[Rule, ...] = (
    *MEMORY,
    *WORKERS,
    *DISK,
    *ARGUMENTS,
    *PACKAGES,
    *HUB,
    *CHECKPOINTS,
    *MODEL,
    *DATA,
    *DISTRIBUTED,
    *FILES,
    *DEVICES,
    *ENDINGS,
)
