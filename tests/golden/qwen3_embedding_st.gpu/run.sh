#!/usr/bin/env bash
# Every stage of this run, in order, with plain bash: `bash run.sh`.
# One stage alone: `bash stages/<stage>/command.sh`. Exit code 8 means that the gate was missed.
set -euo pipefail
cd -- /runs/golden
# FlagEmbedding would log HF_TOKEN; huggingface_hub reads this older name of it as well, and nobody logs that.
if [ -n "${HF_TOKEN-}" ]; then export HUGGING_FACE_HUB_TOKEN="$HF_TOKEN"; unset HF_TOKEN; fi

printf '\n[%s/%s] %s\n' 1 7 '01-prepare: Read, check and split the data' >&2
mkdir -p -- stages/01-prepare
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 \
  /orch/bin/python -m orchestrator.data.prepare \
  --train /project/datasets_example/embedding_hard.train.jsonl \
  --eval /project/datasets_example/embedding.eval.jsonl \
  --kind group \
  --form embedding-groups \
  --out /runs/golden/data \
  --max-dropped 0 \
  --seed 42 \
  --max-tokens 512 \
  --truncation cut \
  --validation-ratio 0.1 \
  --min-validation 2 \
  --loss cached_mnrl \
  --hard-negatives 1 \
  --query-instruction 'Instruct: Given a question about a service, retrieve the handbook passage that answers it
Query:' \
  --full-batch 1024 \
  --corpus

printf '\n[%s/%s] %s\n' 2 7 '02-baseline-native: Score the untouched base embedding model' >&2
mkdir -p -- stages/02-baseline-native
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model Qwen/Qwen3-Embedding-0.6B \
  --scoring /runs/golden/files/scoring.native.json \
  --data /runs/golden/data/eval.jsonl \
  --corpus /runs/golden/data/corpus.jsonl \
  --out /runs/golden/stages/02-baseline-native/output \
  --cache /cache/orch/scores

printf '\n[%s/%s] %s\n' 3 7 '03-train: Fine-tune with sentence-transformers and LoRA: 2 processes, 1024 rows a step' >&2
mkdir -p -- stages/03-train
env HF_DATASETS_CACHE=/runs/golden/stages/03-train/cache PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers launch \
  --nproc_per_node 2 \
  --checkpoints /runs/golden/stages/03-train/output /orch/orchestrator/workers train_embedding \
  --config /runs/golden/files/train.json

printf '\n[%s/%s] %s\n' 4 7 '04-merge: Merge the LoRA weights into the base model' >&2
mkdir -p -- stages/04-merge
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers merge \
  --base Qwen/Qwen3-Embedding-0.6B \
  --adapter /runs/golden/stages/03-train/output/best \
  --out /runs/golden/stages/04-merge/output \
  --replace

printf '\n[%s/%s] %s\n' 5 7 '05-package: Make the model describe itself, and verify it' >&2
mkdir -p -- stages/05-package
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers package \
  --model /runs/golden/stages/04-merge/output \
  --base Qwen/Qwen3-Embedding-0.6B \
  --adapter /runs/golden/stages/03-train/output/best \
  --scoring /runs/golden/files/scoring.packaged.json \
  --probes /runs/golden/data/eval.jsonl \
  --corpus /runs/golden/data/corpus.jsonl \
  --out /runs/golden/model \
  --report /runs/golden/stages/05-package/output/verification.json

printf '\n[%s/%s] %s\n' 6 7 '06-evaluate: Score the packaged model as its user loads it' >&2
mkdir -p -- stages/06-evaluate
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model /runs/golden/model \
  --scoring /runs/golden/model/scoring.json \
  --data /runs/golden/data/eval.jsonl \
  --corpus /runs/golden/data/corpus.jsonl \
  --out /runs/golden/stages/06-evaluate/output

printf '\n[%s/%s] %s\n' 7 7 '07-report: Compare, judge and report' >&2
mkdir -p -- stages/07-report
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 \
  /orch/bin/python -m orchestrator.report /runs/golden

