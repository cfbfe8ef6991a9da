#!/usr/bin/env bash
# Every stage of this run, in order, with plain bash: `bash run.sh`.
# One stage alone: `bash stages/<stage>/command.sh`. Exit code 8 means that the gate was missed.
set -euo pipefail
cd -- /runs/golden
# FlagEmbedding would log HF_TOKEN; huggingface_hub reads this older name of it as well, and nobody logs that.
if [ -n "${HF_TOKEN-}" ]; then export HUGGING_FACE_HUB_TOKEN="$HF_TOKEN"; unset HF_TOKEN; fi

printf '\n[%s/%s] %s\n' 1 13 '01-prepare: Read, check and split the data' >&2
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
  --query-max-len 128 \
  --passage-max-len 256 \
  --full-batch 2 \
  --corpus \
  --limit-train 16 \
  --limit-eval 12

printf '\n[%s/%s] %s\n' 2 13 '02-tiny-model: Build a tiny model of the same architecture' >&2
mkdir -p -- stages/02-tiny-model
env CUDA_VISIBLE_DEVICES='' HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 ORCH_ALLOW_PICKLE=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers tiny_model \
  --like m3 \
  --model-type bert \
  --texts /runs/golden/data/train.jsonl /runs/golden/data/eval.jsonl /runs/golden/data/corpus.jsonl \
  --out /runs/golden/stages/02-tiny-model/output

printf '\n[%s/%s] %s\n' 3 13 '03-baseline-native: Score the untouched base embedding model' >&2
mkdir -p -- stages/03-baseline-native
env CUDA_VISIBLE_DEVICES='' HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 ORCH_ALLOW_PICKLE=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model /runs/golden/stages/02-tiny-model/output \
  --scoring /runs/golden/files/scoring.native.json \
  --data /runs/golden/data/eval.jsonl \
  --corpus /runs/golden/data/corpus.jsonl \
  --out /runs/golden/stages/03-baseline-native/output \
  --device cpu

printf '\n[%s/%s] %s\n' 4 13 '04-baseline-sparse: Score the untouched base model by its sparse weights' >&2
mkdir -p -- stages/04-baseline-sparse
env CUDA_VISIBLE_DEVICES='' HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 ORCH_ALLOW_PICKLE=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model /runs/golden/stages/02-tiny-model/output \
  --scoring /runs/golden/files/scoring.sparse.json \
  --data /runs/golden/data/eval.jsonl \
  --corpus /runs/golden/data/corpus.jsonl \
  --out /runs/golden/stages/04-baseline-sparse/output \
  --device cpu

printf '\n[%s/%s] %s\n' 5 13 '05-baseline-colbert: Score the untouched base model by its ColBERT vectors (its nearest 100)' >&2
mkdir -p -- stages/05-baseline-colbert
env CUDA_VISIBLE_DEVICES='' HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 ORCH_ALLOW_PICKLE=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model /runs/golden/stages/02-tiny-model/output \
  --scoring /runs/golden/files/scoring.colbert.json \
  --data /runs/golden/data/eval.jsonl \
  --corpus /runs/golden/data/corpus.jsonl \
  --out /runs/golden/stages/05-baseline-colbert/output \
  --device cpu

printf '\n[%s/%s] %s\n' 6 13 '06-baseline-sum: Score the untouched base model by the sum of dense, sparse and ColBERT (its nearest 100)' >&2
mkdir -p -- stages/06-baseline-sum
env CUDA_VISIBLE_DEVICES='' HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 ORCH_ALLOW_PICKLE=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model /runs/golden/stages/02-tiny-model/output \
  --scoring /runs/golden/files/scoring.sum.json \
  --data /runs/golden/data/eval.jsonl \
  --corpus /runs/golden/data/corpus.jsonl \
  --out /runs/golden/stages/06-baseline-sum/output \
  --device cpu

printf '\n[%s/%s] %s\n' 7 13 '07-train: Fine-tune with flagembedding' >&2
mkdir -p -- stages/07-train
env CUDA_VISIBLE_DEVICES='' DS_ACCELERATOR=cpu HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 ORCH_ALLOW_PICKLE=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false TORCH_EXTENSIONS_DIR=/cache/orch/torch_extensions/fe97caadc1d6 \
  /env/bin/python /orch/orchestrator/workers launch \
  --nproc_per_node 1 \
  -m FlagEmbedding.finetune.embedder.encoder_only.m3 \
  --model_name_or_path /runs/golden/stages/02-tiny-model/output \
  --train_data /runs/golden/data/train.jsonl \
  --cache_path /runs/golden/stages/07-train/cache \
  --train_group_size 4 \
  --query_max_len 128 \
  --passage_max_len 256 \
  --query_instruction_for_retrieval '' \
  --sentence_pooling_method cls \
  --normalize_embeddings True \
  --temperature 0.02 \
  --output_dir /runs/golden/stages/07-train/output \
  --learning_rate 0.001 \
  --num_train_epochs 2 \
  --per_device_train_batch_size 2 \
  --gradient_accumulation_steps 1 \
  --seed 42 \
  --unified_finetuning True \
  --use_self_distill True \
  --self_distill_start_step 0 \
  --warmup_steps 0.1 \
  --gradient_checkpointing True \
  --logging_steps 1 \
  --save_strategy epoch \
  --dataloader_num_workers 0 \
  --bf16 False \
  --fp16 False \
  --dataloader_drop_last True \
  --save_total_limit 2 \
  --report_to none \
  --ddp_timeout 1800 \
  --use_cpu True \
  --deepspeed /runs/golden/files/ds_stage0.json

printf '\n[%s/%s] %s\n' 8 13 '08-package: Make the model describe itself, and verify it' >&2
mkdir -p -- stages/08-package
env CUDA_VISIBLE_DEVICES='' HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 ORCH_ALLOW_PICKLE=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers package \
  --model /runs/golden/stages/07-train/output \
  --base /runs/golden/stages/02-tiny-model/output \
  --scoring /runs/golden/files/scoring.packaged.json \
  --probes /runs/golden/data/eval.jsonl \
  --corpus /runs/golden/data/corpus.jsonl \
  --out /runs/golden/model \
  --report /runs/golden/stages/08-package/output/verification.json

printf '\n[%s/%s] %s\n' 9 13 '09-evaluate: Score the packaged model as its user loads it' >&2
mkdir -p -- stages/09-evaluate
env CUDA_VISIBLE_DEVICES='' HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 ORCH_ALLOW_PICKLE=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model /runs/golden/model \
  --scoring /runs/golden/model/scoring.json \
  --data /runs/golden/data/eval.jsonl \
  --corpus /runs/golden/data/corpus.jsonl \
  --out /runs/golden/stages/09-evaluate/output \
  --device cpu

printf '\n[%s/%s] %s\n' 10 13 '10-baseline-tuned-sparse: Score the tuned model by its sparse weights' >&2
mkdir -p -- stages/10-baseline-tuned-sparse
env CUDA_VISIBLE_DEVICES='' HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 ORCH_ALLOW_PICKLE=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model /runs/golden/model \
  --scoring /runs/golden/files/scoring.tuned-sparse.json \
  --data /runs/golden/data/eval.jsonl \
  --corpus /runs/golden/data/corpus.jsonl \
  --out /runs/golden/stages/10-baseline-tuned-sparse/output \
  --device cpu

printf '\n[%s/%s] %s\n' 11 13 '11-baseline-tuned-colbert: Score the tuned model by its ColBERT vectors (its nearest 100)' >&2
mkdir -p -- stages/11-baseline-tuned-colbert
env CUDA_VISIBLE_DEVICES='' HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 ORCH_ALLOW_PICKLE=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model /runs/golden/model \
  --scoring /runs/golden/files/scoring.tuned-colbert.json \
  --data /runs/golden/data/eval.jsonl \
  --corpus /runs/golden/data/corpus.jsonl \
  --out /runs/golden/stages/11-baseline-tuned-colbert/output \
  --device cpu

printf '\n[%s/%s] %s\n' 12 13 '12-baseline-tuned-sum: Score the tuned model by the sum of dense, sparse and ColBERT (its nearest 100)' >&2
mkdir -p -- stages/12-baseline-tuned-sum
env CUDA_VISIBLE_DEVICES='' HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 ORCH_ALLOW_PICKLE=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model /runs/golden/model \
  --scoring /runs/golden/files/scoring.tuned-sum.json \
  --data /runs/golden/data/eval.jsonl \
  --corpus /runs/golden/data/corpus.jsonl \
  --out /runs/golden/stages/12-baseline-tuned-sum/output \
  --device cpu

printf '\n[%s/%s] %s\n' 13 13 '13-report: Compare, judge and report' >&2
mkdir -p -- stages/13-report
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 \
  /orch/bin/python -m orchestrator.report /runs/golden

