#!/usr/bin/env bash
# Every stage of this run, in order, with plain bash: `bash run.sh`.
# One stage alone: `bash stages/<stage>/command.sh`. Exit code 8 means that the gate was missed.
set -euo pipefail
cd -- /runs/golden
# FlagEmbedding would log HF_TOKEN; huggingface_hub reads this older name of it as well, and nobody logs that.
if [ -n "${HF_TOKEN-}" ]; then export HUGGING_FACE_HUB_TOKEN="$HF_TOKEN"; unset HF_TOKEN; fi

printf '\n[%s/%s] %s\n' 1 15 '01-teacher-pairs: List the pairs for the teacher' >&2
mkdir -p -- stages/01-teacher-pairs
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 \
  /orch/bin/python -m orchestrator.data.teacher pairs \
  --rows /project/datasets_example/reranker.train.jsonl \
  --limit 40 \
  --out /runs/golden/stages/01-teacher-pairs/output

printf '\n[%s/%s] %s\n' 2 15 '02-tiny-teacher: Build a tiny model of the teacher'"'"'s architecture' >&2
mkdir -p -- stages/02-tiny-teacher
env CUDA_VISIBLE_DEVICES='' HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers tiny_model \
  --like decoder \
  --model-type qwen3 \
  --texts /runs/golden/stages/01-teacher-pairs/output/pairs.jsonl \
  --out /runs/golden/stages/02-tiny-teacher/output \
  --seed 7

printf '\n[%s/%s] %s\n' 3 15 '03-teacher-scores: Let the teacher score the pairs' >&2
mkdir -p -- stages/03-teacher-scores
env CUDA_VISIBLE_DEVICES='' HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score_pairs \
  --model /runs/golden/stages/02-tiny-teacher/output \
  --scoring /runs/golden/files/scoring.teacher.json \
  --pairs /runs/golden/stages/01-teacher-pairs/output/pairs.jsonl \
  --out /runs/golden/stages/03-teacher-scores/output \
  --device cpu

printf '\n[%s/%s] %s\n' 4 15 '04-teacher: Write the teacher'"'"'s scores into the rows' >&2
mkdir -p -- stages/04-teacher
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 \
  /orch/bin/python -m orchestrator.data.teacher join \
  --rows /project/datasets_example/reranker.train.jsonl \
  --limit 40 \
  --scores /runs/golden/stages/03-teacher-scores/output/scores.jsonl \
  --out /runs/golden/stages/04-teacher/output/train.jsonl

printf '\n[%s/%s] %s\n' 5 15 '05-prepare: Read, check and split the data' >&2
mkdir -p -- stages/05-prepare
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 \
  /orch/bin/python -m orchestrator.data.prepare \
  --train /runs/golden/stages/04-teacher/output/train.jsonl \
  --eval /project/datasets_example/reranker.eval.jsonl \
  --kind labelled \
  --form cross-encoder-margins \
  --out /runs/golden/data \
  --max-dropped 0 \
  --seed 42 \
  --max-tokens 256 \
  --truncation cut \
  --validation-ratio 0.05 \
  --loss margin_mse \
  --target teacher \
  --needs-scores \
  --full-batch 1 \
  --limit-train 16 \
  --limit-eval 12

printf '\n[%s/%s] %s\n' 6 15 '06-guard-handbook-data: Read and check the guard handbook' >&2
mkdir -p -- stages/06-guard-handbook-data
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 \
  /orch/bin/python -m orchestrator.data.prepare_eval \
  --eval /project/datasets_example/demo.eval.jsonl \
  --kind group \
  --out /runs/golden/data/guard/handbook \
  --max-dropped 0 \
  --seed 42 \
  --limit-eval 12

printf '\n[%s/%s] %s\n' 7 15 '07-tiny-model: Build a tiny model of the same architecture' >&2
mkdir -p -- stages/07-tiny-model
env CUDA_VISIBLE_DEVICES='' HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers tiny_model \
  --like encoder \
  --model-type bert \
  --texts /runs/golden/data/train.jsonl /runs/golden/data/eval.jsonl \
  --out /runs/golden/stages/07-tiny-model/output

printf '\n[%s/%s] %s\n' 8 15 '08-baseline-trained-format: Score the untouched base model in the format of the training' >&2
mkdir -p -- stages/08-baseline-trained-format
env CUDA_VISIBLE_DEVICES='' HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model /runs/golden/stages/07-tiny-model/output \
  --scoring /runs/golden/files/scoring.trained-format.json \
  --data /runs/golden/data/eval.jsonl \
  --out /runs/golden/stages/08-baseline-trained-format/output \
  --device cpu

printf '\n[%s/%s] %s\n' 9 15 '09-baseline-teacher: Score the teacher Qwen/Qwen3-Reranker-0.6B' >&2
mkdir -p -- stages/09-baseline-teacher
env CUDA_VISIBLE_DEVICES='' HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model /runs/golden/stages/02-tiny-teacher/output \
  --scoring /runs/golden/files/scoring.teacher.json \
  --data /runs/golden/data/eval.jsonl \
  --out /runs/golden/stages/09-baseline-teacher/output \
  --device cpu

printf '\n[%s/%s] %s\n' 10 15 '10-train: Fine-tune with sentence-transformers' >&2
mkdir -p -- stages/10-train
env CUDA_VISIBLE_DEVICES='' HF_DATASETS_CACHE=/runs/golden/stages/10-train/cache HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers launch \
  --nproc_per_node 1 /orch/orchestrator/workers train_cross_encoder \
  --config /runs/golden/files/train.json

printf '\n[%s/%s] %s\n' 11 15 '11-package: Make the model describe itself, and verify it' >&2
mkdir -p -- stages/11-package
env CUDA_VISIBLE_DEVICES='' HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers package \
  --model /runs/golden/stages/10-train/output/best \
  --base /runs/golden/stages/07-tiny-model/output \
  --scoring /runs/golden/files/scoring.packaged.json \
  --probes /runs/golden/data/eval.jsonl \
  --out /runs/golden/model \
  --report /runs/golden/stages/11-package/output/verification.json

printf '\n[%s/%s] %s\n' 12 15 '12-evaluate: Score the packaged model as its user loads it' >&2
mkdir -p -- stages/12-evaluate
env CUDA_VISIBLE_DEVICES='' HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model /runs/golden/model \
  --scoring /runs/golden/model/scoring.json \
  --data /runs/golden/data/eval.jsonl \
  --out /runs/golden/stages/12-evaluate/output \
  --device cpu

printf '\n[%s/%s] %s\n' 13 15 '13-guard-handbook-before: Score the untouched base model on the guard handbook' >&2
mkdir -p -- stages/13-guard-handbook-before
env CUDA_VISIBLE_DEVICES='' HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model /runs/golden/stages/07-tiny-model/output \
  --scoring /runs/golden/files/scoring.trained-format.json \
  --data /runs/golden/data/guard/handbook/eval.jsonl \
  --out /runs/golden/stages/13-guard-handbook-before/output \
  --device cpu

printf '\n[%s/%s] %s\n' 14 15 '14-guard-handbook-after: Score the packaged model on the guard handbook' >&2
mkdir -p -- stages/14-guard-handbook-after
env CUDA_VISIBLE_DEVICES='' HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model /runs/golden/model \
  --scoring /runs/golden/model/scoring.json \
  --data /runs/golden/data/guard/handbook/eval.jsonl \
  --out /runs/golden/stages/14-guard-handbook-after/output \
  --device cpu

printf '\n[%s/%s] %s\n' 15 15 '15-report: Compare, judge and report' >&2
mkdir -p -- stages/15-report
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 \
  /orch/bin/python -m orchestrator.report /runs/golden

