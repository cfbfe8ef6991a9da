#!/usr/bin/env bash
# Every stage of this run, in order, with plain bash: `bash run.sh`.
# One stage alone: `bash stages/<stage>/command.sh`. Exit code 8 means that the gate was missed.
set -euo pipefail
cd -- /runs/golden
# FlagEmbedding would log HF_TOKEN; huggingface_hub reads this older name of it as well, and nobody logs that.
if [ -n "${HF_TOKEN-}" ]; then export HUGGING_FACE_HUB_TOKEN="$HF_TOKEN"; unset HF_TOKEN; fi

printf '\n[%s/%s] %s\n' 1 9 '01-teacher-pairs: List the pairs for the teacher' >&2
mkdir -p -- stages/01-teacher-pairs
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 \
  /orch/bin/python -m orchestrator.data.teacher pairs \
  --rows /project/datasets_example/reranker.train.jsonl \
  --out /runs/golden/stages/01-teacher-pairs/output

printf '\n[%s/%s] %s\n' 2 9 '02-teacher-scores: Let the teacher score the pairs' >&2
mkdir -p -- stages/02-teacher-scores
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score_pairs \
  --model BAAI/bge-reranker-v2-m3 \
  --scoring /runs/golden/files/scoring.teacher.json \
  --pairs /runs/golden/stages/01-teacher-pairs/output/pairs.jsonl \
  --out /runs/golden/stages/02-teacher-scores/output \
  --cache /cache/orch/teacher

printf '\n[%s/%s] %s\n' 3 9 '03-teacher: Write the teacher'"'"'s scores into the rows' >&2
mkdir -p -- stages/03-teacher
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 \
  /orch/bin/python -m orchestrator.data.teacher join \
  --rows /project/datasets_example/reranker.train.jsonl \
  --scores /runs/golden/stages/02-teacher-scores/output/scores.jsonl \
  --out /runs/golden/stages/03-teacher/output/train.jsonl

printf '\n[%s/%s] %s\n' 4 9 '04-prepare: Read, check and split the data' >&2
mkdir -p -- stages/04-prepare
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 \
  /orch/bin/python -m orchestrator.data.prepare \
  --train /runs/golden/stages/03-teacher/output/train.jsonl \
  --eval /project/datasets_example/reranker.eval.jsonl \
  --kind group \
  --form embedding-scores \
  --out /runs/golden/data \
  --max-dropped 0 \
  --seed 42 \
  --max-tokens 512 \
  --truncation cut \
  --validation-ratio 0.05 \
  --min-validation 2 \
  --loss distill_kl \
  --needs-scores \
  --hard-negatives 4 \
  --query-instruction '为这个句子生成表示以用于检索相关文章：' \
  --full-batch 32 \
  --corpus

printf '\n[%s/%s] %s\n' 5 9 '05-baseline-native: Score the untouched base embedding model' >&2
mkdir -p -- stages/05-baseline-native
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model BAAI/bge-base-zh-v1.5 \
  --scoring /runs/golden/files/scoring.native.json \
  --data /runs/golden/data/eval.jsonl \
  --corpus /runs/golden/data/corpus.jsonl \
  --out /runs/golden/stages/05-baseline-native/output \
  --cache /cache/orch/scores

printf '\n[%s/%s] %s\n' 6 9 '06-train: Fine-tune with sentence-transformers: 2 processes, 32 rows a step' >&2
mkdir -p -- stages/06-train
env HF_DATASETS_CACHE=/runs/golden/stages/06-train/cache PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers launch \
  --nproc_per_node 2 \
  --checkpoints /runs/golden/stages/06-train/output /orch/orchestrator/workers train_embedding \
  --config /runs/golden/files/train.json

printf '\n[%s/%s] %s\n' 7 9 '07-package: Make the model describe itself, and verify it' >&2
mkdir -p -- stages/07-package
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers package \
  --model /runs/golden/stages/06-train/output/best \
  --base BAAI/bge-base-zh-v1.5 \
  --scoring /runs/golden/files/scoring.packaged.json \
  --probes /runs/golden/data/eval.jsonl \
  --corpus /runs/golden/data/corpus.jsonl \
  --out /runs/golden/model \
  --report /runs/golden/stages/07-package/output/verification.json

printf '\n[%s/%s] %s\n' 8 9 '08-evaluate: Score the packaged model as its user loads it' >&2
mkdir -p -- stages/08-evaluate
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model /runs/golden/model \
  --scoring /runs/golden/model/scoring.json \
  --data /runs/golden/data/eval.jsonl \
  --corpus /runs/golden/data/corpus.jsonl \
  --out /runs/golden/stages/08-evaluate/output

printf '\n[%s/%s] %s\n' 9 9 '09-report: Compare, judge and report' >&2
mkdir -p -- stages/09-report
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 \
  /orch/bin/python -m orchestrator.report /runs/golden

