mkdir adapter
python "$ORCH/orchestrator/workers" merge --adapter adapter --out merged
