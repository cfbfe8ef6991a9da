#!/usr/bin/env bash
# Every stage of this run, in order, with plain bash: `bash run.sh`.
# One stage alone: `bash stages/<stage>/command.sh`. Exit code 8 means that the gate was missed.
set -euo pipefail
cd -- /runs/golden
# FlagEmbedding would log HF_TOKEN; huggingface_hub reads this older name of it as well, and nobody logs that.
if [ -n "${HF_TOKEN-}" ]; then export HUGGING_FACE_HUB_TOKEN="$HF_TOKEN"; unset HF_TOKEN; fi

printf '\n[%s/%s] %s\n' 1 13 '01-teacher-pairs: List the pairs for the teacher' >&2
mkdir -p -- stages/01-teacher-pairs
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 \
  /orch/bin/python -m orchestrator.data.teacher pairs \
  --rows /project/datasets_example/reranker.train.jsonl \
  --out /runs/golden/stages/01-teacher-pairs/output

printf '\n[%s/%s] %s\n' 2 13 '02-teacher-scores: Let the teacher score the pairs' >&2
mkdir -p -- stages/02-teacher-scores
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score_pairs \
  --model Qwen/Qwen3-Reranker-0.6B \
  --scoring /runs/golden/files/scoring.teacher.json \
  --pairs /runs/golden/stages/01-teacher-pairs/output/pairs.jsonl \
  --out /runs/golden/stages/02-teacher-scores/output \
  --cache /cache/orch/teacher

printf '\n[%s/%s] %s\n' 3 13 '03-teacher: Write the teacher'"'"'s scores into the rows' >&2
mkdir -p -- stages/03-teacher
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 \
  /orch/bin/python -m orchestrator.data.teacher join \
  --rows /project/datasets_example/reranker.train.jsonl \
  --scores /runs/golden/stages/02-teacher-scores/output/scores.jsonl \
  --out /runs/golden/stages/03-teacher/output/train.jsonl

printf '\n[%s/%s] %s\n' 4 13 '04-prepare: Read, check and split the data' >&2
mkdir -p -- stages/04-prepare
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 \
  /orch/bin/python -m orchestrator.data.prepare \
  --train /runs/golden/stages/03-teacher/output/train.jsonl \
  --eval /project/datasets_example/reranker.eval.jsonl \
  --kind labelled \
  --form cross-encoder-margins \
  --out /runs/golden/data \
  --max-dropped 0 \
  --seed 42 \
  --max-tokens 512 \
  --truncation cut \
  --validation-ratio 0.05 \
  --min-validation 2 \
  --loss margin_mse \
  --target teacher \
  --needs-scores \
  --full-batch 16

printf '\n[%s/%s] %s\n' 5 13 '05-guard-handbook-data: Read and check the guard handbook' >&2
mkdir -p -- stages/05-guard-handbook-data
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 \
  /orch/bin/python -m orchestrator.data.prepare_eval \
  --eval /project/datasets_example/demo.eval.jsonl \
  --kind group \
  --out /runs/golden/data/guard/handbook \
  --max-dropped 0 \
  --seed 42

printf '\n[%s/%s] %s\n' 6 13 '06-baseline-trained-format: Score the untouched base model in the format of the training' >&2
mkdir -p -- stages/06-baseline-trained-format
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model hfl/chinese-roberta-wwm-ext \
  --scoring /runs/golden/files/scoring.trained-format.json \
  --data /runs/golden/data/eval.jsonl \
  --out /runs/golden/stages/06-baseline-trained-format/output \
  --cache /cache/orch/scores

printf '\n[%s/%s] %s\n' 7 13 '07-baseline-teacher: Score the teacher Qwen/Qwen3-Reranker-0.6B' >&2
mkdir -p -- stages/07-baseline-teacher
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model Qwen/Qwen3-Reranker-0.6B \
  --scoring /runs/golden/files/scoring.teacher.json \
  --data /runs/golden/data/eval.jsonl \
  --out /runs/golden/stages/07-baseline-teacher/output \
  --cache /cache/orch/scores

printf '\n[%s/%s] %s\n' 8 13 '08-train: Fine-tune with sentence-transformers: 2 processes, 32 rows a step' >&2
mkdir -p -- stages/08-train
env HF_DATASETS_CACHE=/runs/golden/stages/08-train/cache PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers launch \
  --nproc_per_node 2 \
  --checkpoints /runs/golden/stages/08-train/output /orch/orchestrator/workers train_cross_encoder \
  --config /runs/golden/files/train.json

printf '\n[%s/%s] %s\n' 9 13 '09-package: Make the model describe itself, and verify it' >&2
mkdir -p -- stages/09-package
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers package \
  --model /runs/golden/stages/08-train/output/best \
  --base hfl/chinese-roberta-wwm-ext \
  --scoring /runs/golden/files/scoring.packaged.json \
  --probes /runs/golden/data/eval.jsonl \
  --out /runs/golden/model \
  --report /runs/golden/stages/09-package/output/verification.json

printf '\n[%s/%s] %s\n' 10 13 '10-evaluate: Score the packaged model as its user loads it' >&2
mkdir -p -- stages/10-evaluate
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model /runs/golden/model \
  --scoring /runs/golden/model/scoring.json \
  --data /runs/golden/data/eval.jsonl \
  --out /runs/golden/stages/10-evaluate/output

printf '\n[%s/%s] %s\n' 11 13 '11-guard-handbook-before: Score the untouched base model on the guard handbook' >&2
mkdir -p -- stages/11-guard-handbook-before
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model hfl/chinese-roberta-wwm-ext \
  --scoring /runs/golden/files/scoring.trained-format.json \
  --data /runs/golden/data/guard/handbook/eval.jsonl \
  --out /runs/golden/stages/11-guard-handbook-before/output \
  --cache /cache/orch/scores

printf '\n[%s/%s] %s\n' 12 13 '12-guard-handbook-after: Score the packaged model on the guard handbook' >&2
mkdir -p -- stages/12-guard-handbook-after
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model /runs/golden/model \
  --scoring /runs/golden/model/scoring.json \
  --data /runs/golden/data/guard/handbook/eval.jsonl \
  --out /runs/golden/stages/12-guard-handbook-after/output

printf '\n[%s/%s] %s\n' 13 13 '13-report: Compare, judge and report' >&2
mkdir -p -- stages/13-report
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 \
  /orch/bin/python -m orchestrator.report /runs/golden

