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
  --train /project/datasets_example/reranker.train.jsonl \
  --eval /project/datasets_example/reranker.eval.jsonl \
  --kind group \
  --form flagembedding \
  --out /runs/golden/data \
  --max-dropped 0 \
  --seed 42 \
  --apart \
  --query-max-len 64 \
  --passage-max-len 256 \
  --query-instruction 'Represent this sentence for searching relevant passages: ' \
  --full-batch 16 \
  --corpus

printf '\n[%s/%s] %s\n' 2 6 '02-baseline-native: Score the untouched base embedding model' >&2
mkdir -p -- stages/02-baseline-native
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model BAAI/bge-base-en-v1.5 \
  --scoring /runs/golden/files/scoring.native.json \
  --data /runs/golden/data/eval.jsonl \
  --corpus /runs/golden/data/corpus.jsonl \
  --out /runs/golden/stages/02-baseline-native/output \
  --cache /cache/orch/scores

printf '\n[%s/%s] %s\n' 3 6 '03-train: Fine-tune with flagembedding: 2 processes, 16 rows a step' >&2
mkdir -p -- stages/03-train
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers launch \
  --nproc_per_node 2 \
  --checkpoints /runs/golden/stages/03-train/output \
  -m FlagEmbedding.finetune.embedder.encoder_only.base \
  --model_name_or_path BAAI/bge-base-en-v1.5 \
  --train_data /runs/golden/data/train.jsonl \
  --cache_path /runs/golden/stages/03-train/cache \
  --train_group_size 8 \
  --query_max_len 64 \
  --passage_max_len 256 \
  --query_instruction_for_retrieval 'Represent this sentence for searching relevant passages: ' \
  --sentence_pooling_method cls \
  --normalize_embeddings True \
  --temperature 0.02 \
  --output_dir /runs/golden/stages/03-train/output \
  --learning_rate 1e-05 \
  --num_train_epochs 2 \
  --per_device_train_batch_size 8 \
  --gradient_accumulation_steps 1 \
  --seed 42 \
  --warmup_steps 0.1 \
  --weight_decay 0.01 \
  --dataloader_drop_last True \
  --logging_steps 10 \
  --save_strategy epoch \
  --save_total_limit 2 \
  --report_to none \
  --ddp_timeout 1800 \
  --bf16 True \
  --deepspeed /runs/golden/files/ds_stage0.json

printf '\n[%s/%s] %s\n' 4 6 '04-package: Make the model describe itself, and verify it' >&2
mkdir -p -- stages/04-package
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers package \
  --model /runs/golden/stages/03-train/output \
  --base BAAI/bge-base-en-v1.5 \
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

