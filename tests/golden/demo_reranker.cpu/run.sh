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
  --train /project/datasets_example/demo.train.jsonl \
  --eval /project/datasets_example/demo.eval.jsonl \
  --kind group \
  --form flagembedding \
  --out /runs/golden/data \
  --max-dropped 0 \
  --seed 42 \
  --query-max-len 32 \
  --passage-max-len 112 \
  --full-batch 4

printf '\n[%s/%s] %s\n' 2 7 '02-baseline-trained-format: Score the untouched base model in the format of the training' >&2
mkdir -p -- stages/02-baseline-trained-format
env CUDA_VISIBLE_DEVICES='' HF_HUB_OFFLINE=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model /models/minilm \
  --scoring /runs/golden/files/scoring.trained-format.json \
  --data /runs/golden/data/eval.jsonl \
  --out /runs/golden/stages/02-baseline-trained-format/output \
  --device cpu \
  --cache /cache/orch/scores

printf '\n[%s/%s] %s\n' 3 7 '03-baseline-native: Score the untouched base model as the bi-encoder it is (cosine of its embeddings)' >&2
mkdir -p -- stages/03-baseline-native
env CUDA_VISIBLE_DEVICES='' HF_HUB_OFFLINE=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model /models/minilm \
  --scoring /runs/golden/files/scoring.native.json \
  --data /runs/golden/data/eval.jsonl \
  --out /runs/golden/stages/03-baseline-native/output \
  --device cpu \
  --cache /cache/orch/scores

printf '\n[%s/%s] %s\n' 4 7 '04-train: Fine-tune with flagembedding' >&2
mkdir -p -- stages/04-train
env CUDA_VISIBLE_DEVICES='' HF_HUB_OFFLINE=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers launch \
  --nproc_per_node 1 /orch/orchestrator/workers train_flagembedding \
  --speedups trim_padding \
  -m FlagEmbedding.finetune.reranker.encoder_only.base \
  --model_name_or_path /models/minilm \
  --model_type encoder \
  --train_data /runs/golden/data/train.jsonl \
  --cache_path /runs/golden/stages/04-train/cache \
  --train_group_size 4 \
  --query_max_len 32 \
  --passage_max_len 112 \
  --output_dir /runs/golden/stages/04-train/output \
  --learning_rate 0.00015 \
  --num_train_epochs 2 \
  --per_device_train_batch_size 4 \
  --gradient_accumulation_steps 1 \
  --seed 42 \
  --warmup_steps 0.1 \
  --logging_steps 5 \
  --dataloader_drop_last True \
  --save_strategy epoch \
  --save_total_limit 2 \
  --report_to none \
  --ddp_timeout 1800 \
  --use_cpu True

printf '\n[%s/%s] %s\n' 5 7 '05-package: Make the model describe itself, and verify it' >&2
mkdir -p -- stages/05-package
env CUDA_VISIBLE_DEVICES='' HF_HUB_OFFLINE=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers package \
  --model /runs/golden/stages/04-train/output \
  --base /models/minilm \
  --scoring /runs/golden/files/scoring.packaged.json \
  --probes /runs/golden/data/eval.jsonl \
  --out /runs/golden/model \
  --report /runs/golden/stages/05-package/output/verification.json

printf '\n[%s/%s] %s\n' 6 7 '06-evaluate: Score the packaged model as its user loads it' >&2
mkdir -p -- stages/06-evaluate
env CUDA_VISIBLE_DEVICES='' HF_HUB_OFFLINE=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model /runs/golden/model \
  --scoring /runs/golden/model/scoring.json \
  --data /runs/golden/data/eval.jsonl \
  --out /runs/golden/stages/06-evaluate/output \
  --device cpu

printf '\n[%s/%s] %s\n' 7 7 '07-report: Compare, judge and report' >&2
mkdir -p -- stages/07-report
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 \
  /orch/bin/python -m orchestrator.report /runs/golden

