#!/usr/bin/env bash
# Every stage of this run, in order, with plain bash: `bash run.sh`.
# One stage alone: `bash stages/<stage>/command.sh`. Exit code 8 means that the gate was missed.
set -euo pipefail
cd -- /runs/golden
# FlagEmbedding would log HF_TOKEN; huggingface_hub reads this older name of it as well, and nobody logs that.
if [ -n "${HF_TOKEN-}" ]; then export HUGGING_FACE_HUB_TOKEN="$HF_TOKEN"; unset HF_TOKEN; fi

printf '\n[%s/%s] %s\n' 1 6 '01-prepare: Read, check and split the data' >&2
mkdir -p -- stages/01-prepare
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 \
  /orch/bin/python -m orchestrator.data.prepare \
  --train /project/datasets_example/classes.train.jsonl \
  --eval /project/datasets_example/classes.eval.jsonl \
  --kind class \
  --form embedding-classes \
  --out /runs/golden/data \
  --max-dropped 0 \
  --seed 42 \
  --max-tokens 128 \
  --truncation cut \
  --validation-ratio 0.2 \
  --min-validation 2 \
  --loss batch_hard_soft_margin_triplet \
  --full-batch 128 \
  --corpus

printf '\n[%s/%s] %s\n' 2 6 '02-baseline-native: Score the untouched base embedding model' >&2
mkdir -p -- stages/02-baseline-native
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2 \
  --scoring /runs/golden/files/scoring.native.json \
  --data /runs/golden/data/eval.jsonl \
  --corpus /runs/golden/data/corpus.jsonl \
  --out /runs/golden/stages/02-baseline-native/output \
  --cache /cache/orch/scores

printf '\n[%s/%s] %s\n' 3 6 '03-train: Fine-tune with sentence-transformers: 2 processes, 128 rows a step' >&2
mkdir -p -- stages/03-train
env HF_DATASETS_CACHE=/runs/golden/stages/03-train/cache PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers launch \
  --nproc_per_node 2 \
  --checkpoints /runs/golden/stages/03-train/output /orch/orchestrator/workers train_embedding \
  --config /runs/golden/files/train.json

printf '\n[%s/%s] %s\n' 4 6 '04-package: Make the model describe itself, and verify it' >&2
mkdir -p -- stages/04-package
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers package \
  --model /runs/golden/stages/03-train/output/best \
  --base sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2 \
  --scoring /runs/golden/files/scoring.packaged.json \
  --probes /runs/golden/data/eval.jsonl \
  --corpus /runs/golden/data/corpus.jsonl \
  --out /runs/golden/model \
  --report /runs/golden/stages/04-package/output/verification.json

printf '\n[%s/%s] %s\n' 5 6 '05-evaluate: Score the packaged model as its user loads it' >&2
mkdir -p -- stages/05-evaluate
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model /runs/golden/model \
  --scoring /runs/golden/model/scoring.json \
  --data /runs/golden/data/eval.jsonl \
  --corpus /runs/golden/data/corpus.jsonl \
  --out /runs/golden/stages/05-evaluate/output

printf '\n[%s/%s] %s\n' 6 6 '06-report: Compare, judge and report' >&2
mkdir -p -- stages/06-report
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 \
  /orch/bin/python -m orchestrator.report /runs/golden

