"""What Orch's own workers say before they end with code 1: the line itself is the cause."""

from __future__ import annotations

from orchestrator.logs.rule import rule
from orchestrator.machine.language import Text

WORKERS = (
    rule(
        "worker-refused",
        r"^(?:score|merge|verify_merge|package|tiny_model|predict|arguments|fresh|fetch|train_cross_encoder|score_pairs|mine"
        r"|inspect_model|inspect_tensors|mend_model|deploy_with_key): (.+)$",
        Text("{1}", "{1}"),
        Text("put that right, then resume the run", "按提示修正后，恢复运行"),
    ),
)
