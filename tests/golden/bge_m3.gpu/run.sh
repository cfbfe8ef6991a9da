#!/usr/bin/env bash
# Every stage of this run, in order, with plain bash: `bash run.sh`.
# One stage alone: `bash stages/<stage>/command.sh`. Exit code 8 means that the gate was missed.
set -euo pipefail
cd -- /runs/golden
# FlagEmbedding would log HF_TOKEN; huggingface_hub reads this older name of it as well, and nobody logs that.
if [ -n "${HF_TOKEN-}" ]; then export HUGGING_FACE_HUB_TOKEN="$HF_TOKEN"; unset HF_TOKEN; fi

printf '\n[%s/%s] %s\n' 1 12 '01-prepare: Read, check and split the data' >&2
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
  --full-batch 8 \
  --corpus

printf '\n[%s/%s] %s\n' 2 12 '02-baseline-native: Score the untouched base embedding model' >&2
mkdir -p -- stages/02-baseline-native
env ORCH_ALLOW_PICKLE=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model BAAI/bge-m3 \
  --scoring /runs/golden/files/scoring.native.json \
  --data /runs/golden/data/eval.jsonl \
  --corpus /runs/golden/data/corpus.jsonl \
  --out /runs/golden/stages/02-baseline-native/output \
  --cache /cache/orch/scores

printf '\n[%s/%s] %s\n' 3 12 '03-baseline-sparse: Score the untouched base model by its sparse weights' >&2
mkdir -p -- stages/03-baseline-sparse
env ORCH_ALLOW_PICKLE=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model BAAI/bge-m3 \
  --scoring /runs/golden/files/scoring.sparse.json \
  --data /runs/golden/data/eval.jsonl \
  --corpus /runs/golden/data/corpus.jsonl \
  --out /runs/golden/stages/03-baseline-sparse/output \
  --cache /cache/orch/scores

printf '\n[%s/%s] %s\n' 4 12 '04-baseline-colbert: Score the untouched base model by its ColBERT vectors (its nearest 100)' >&2
mkdir -p -- stages/04-baseline-colbert
env ORCH_ALLOW_PICKLE=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model BAAI/bge-m3 \
  --scoring /runs/golden/files/scoring.colbert.json \
  --data /runs/golden/data/eval.jsonl \
  --corpus /runs/golden/data/corpus.jsonl \
  --out /runs/golden/stages/04-baseline-colbert/output \
  --cache /cache/orch/scores

printf '\n[%s/%s] %s\n' 5 12 '05-baseline-sum: Score the untouched base model by the sum of dense, sparse and ColBERT (its nearest 100)' >&2
mkdir -p -- stages/05-baseline-sum
env ORCH_ALLOW_PICKLE=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model BAAI/bge-m3 \
  --scoring /runs/golden/files/scoring.sum.json \
  --data /runs/golden/data/eval.jsonl \
  --corpus /runs/golden/data/corpus.jsonl \
  --out /runs/golden/stages/05-baseline-sum/output \
  --cache /cache/orch/scores

printf '\n[%s/%s] %s\n' 6 12 '06-train: Fine-tune with flagembedding: 2 processes, 8 rows a step' >&2
mkdir -p -- stages/06-train
env ORCH_ALLOW_PICKLE=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers launch \
  --nproc_per_node 2 \
  --checkpoints /runs/golden/stages/06-train/output \
  -m FlagEmbedding.finetune.embedder.encoder_only.m3 \
  --model_name_or_path BAAI/bge-m3 \
  --train_data /runs/golden/data/train.jsonl \
  --cache_path /runs/golden/stages/06-train/cache \
  --train_group_size 8 \
  --query_max_len 64 \
  --passage_max_len 256 \
  --query_instruction_for_retrieval '' \
  --sentence_pooling_method cls \
  --normalize_embeddings True \
  --temperature 0.02 \
  --output_dir /runs/golden/stages/06-train/output \
  --learning_rate 1e-05 \
  --num_train_epochs 2 \
  --per_device_train_batch_size 4 \
  --gradient_accumulation_steps 1 \
  --seed 42 \
  --unified_finetuning True \
  --use_self_distill True \
  --self_distill_start_step 0 \
  --warmup_steps 0.1 \
  --gradient_checkpointing True \
  --dataloader_drop_last True \
  --logging_steps 10 \
  --save_strategy epoch \
  --save_total_limit 2 \
  --report_to none \
  --ddp_timeout 1800 \
  --bf16 True \
  --deepspeed /runs/golden/files/ds_stage0.json

printf '\n[%s/%s] %s\n' 7 12 '07-package: Make the model describe itself, and verify it' >&2
mkdir -p -- stages/07-package
env ORCH_ALLOW_PICKLE=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers package \
  --model /runs/golden/stages/06-train/output \
  --base BAAI/bge-m3 \
  --scoring /runs/golden/files/scoring.packaged.json \
  --probes /runs/golden/data/eval.jsonl \
  --corpus /runs/golden/data/corpus.jsonl \
  --out /runs/golden/model \
  --report /runs/golden/stages/07-package/output/verification.json

printf '\n[%s/%s] %s\n' 8 12 '08-evaluate: Score the packaged model as its user loads it' >&2
mkdir -p -- stages/08-evaluate
env ORCH_ALLOW_PICKLE=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model /runs/golden/model \
  --scoring /runs/golden/model/scoring.json \
  --data /runs/golden/data/eval.jsonl \
  --corpus /runs/golden/data/corpus.jsonl \
  --out /runs/golden/stages/08-evaluate/output

printf '\n[%s/%s] %s\n' 9 12 '09-baseline-tuned-sparse: Score the tuned model by its sparse weights' >&2
mkdir -p -- stages/09-baseline-tuned-sparse
env ORCH_ALLOW_PICKLE=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model /runs/golden/model \
  --scoring /runs/golden/files/scoring.tuned-sparse.json \
  --data /runs/golden/data/eval.jsonl \
  --corpus /runs/golden/data/corpus.jsonl \
  --out /runs/golden/stages/09-baseline-tuned-sparse/output

printf '\n[%s/%s] %s\n' 10 12 '10-baseline-tuned-colbert: Score the tuned model by its ColBERT vectors (its nearest 100)' >&2
mkdir -p -- stages/10-baseline-tuned-colbert
env ORCH_ALLOW_PICKLE=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model /runs/golden/model \
  --scoring /runs/golden/files/scoring.tuned-colbert.json \
  --data /runs/golden/data/eval.jsonl \
  --corpus /runs/golden/data/corpus.jsonl \
  --out /runs/golden/stages/10-baseline-tuned-colbert/output

printf '\n[%s/%s] %s\n' 11 12 '11-baseline-tuned-sum: Score the tuned model by the sum of dense, sparse and ColBERT (its nearest 100)' >&2
mkdir -p -- stages/11-baseline-tuned-sum
env ORCH_ALLOW_PICKLE=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model /runs/golden/model \
  --scoring /runs/golden/files/scoring.tuned-sum.json \
  --data /runs/golden/data/eval.jsonl \
  --corpus /runs/golden/data/corpus.jsonl \
  --out /runs/golden/stages/11-baseline-tuned-sum/output

printf '\n[%s/%s] %s\n' 12 12 '12-report: Compare, judge and report' >&2
mkdir -p -- stages/12-report
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 \
  /orch/bin/python -m orchestrator.report /runs/golden

