#!/usr/bin/env bash
# Every stage of this run, in order, with plain bash: `bash run.sh`.
# One stage alone: `bash stages/<stage>/command.sh`. Exit code 8 means that the gate was missed.
set -euo pipefail
cd -- /runs/golden
# FlagEmbedding would log HF_TOKEN; huggingface_hub reads this older name of it as well, and nobody logs that.
if [ -n "${HF_TOKEN-}" ]; then export HUGGING_FACE_HUB_TOKEN="$HF_TOKEN"; unset HF_TOKEN; fi

printf '\n[%s/%s] %s\n' 1 8 '01-prepare: Read, check and split the data' >&2
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
  --query-max-len 512 \
  --passage-max-len 512 \
  --query-instruction 'A: ' \
  --passage-instruction 'B: ' \
  --full-batch 8

printf '\n[%s/%s] %s\n' 2 8 '02-baseline-native: Score the untouched base model in Qwen3-Reranker'"'"'s own prompt' >&2
mkdir -p -- stages/02-baseline-native
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model Qwen/Qwen3-Reranker-0.6B \
  --scoring /runs/golden/files/scoring.native.json \
  --data /runs/golden/data/eval.jsonl \
  --out /runs/golden/stages/02-baseline-native/output \
  --cache /cache/orch/scores

printf '\n[%s/%s] %s\n' 3 8 '03-baseline-trained-format: Score the untouched base model in the format of the training' >&2
mkdir -p -- stages/03-baseline-trained-format
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model Qwen/Qwen3-Reranker-0.6B \
  --scoring /runs/golden/files/scoring.trained-format.json \
  --data /runs/golden/data/eval.jsonl \
  --out /runs/golden/stages/03-baseline-trained-format/output \
  --cache /cache/orch/scores

printf '\n[%s/%s] %s\n' 4 8 '04-train: Fine-tune with flagembedding and LoRA: 2 processes, 8 rows a step' >&2
mkdir -p -- stages/04-train
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers launch \
  --nproc_per_node 2 \
  --checkpoints /runs/golden/stages/04-train/output /orch/orchestrator/workers train_flagembedding \
  --speedups last_logits trim_padding \
  -m FlagEmbedding.finetune.reranker.decoder_only.base \
  --model_name_or_path Qwen/Qwen3-Reranker-0.6B \
  --model_type decoder \
  --train_data /runs/golden/data/train.jsonl \
  --cache_path /runs/golden/stages/04-train/cache \
  --train_group_size 8 \
  --query_max_len 512 \
  --passage_max_len 512 \
  --query_instruction_for_rerank 'A: ' \
  --passage_instruction_for_rerank 'B: ' \
  --lora_rank 8 \
  --lora_alpha 16 \
  --lora_dropout 0.1 \
  --target_modules q_proj k_proj v_proj o_proj \
  --output_dir /runs/golden/stages/04-train/output \
  --learning_rate 0.0002 \
  --num_train_epochs 3 \
  --per_device_train_batch_size 4 \
  --gradient_accumulation_steps 1 \
  --seed 42 \
  --warmup_ratio 0.1 \
  --weight_decay 0.01 \
  --gradient_checkpointing True \
  --dataloader_drop_last True \
  --logging_steps 10 \
  --save_strategy epoch \
  --save_total_limit 2 \
  --report_to none \
  --ddp_timeout 1800 \
  --bf16 True \
  --deepspeed /runs/golden/files/ds_stage0.json

printf '\n[%s/%s] %s\n' 5 8 '05-merge: Merge the LoRA weights into the base model' >&2
mkdir -p -- stages/05-merge
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers merge \
  --base Qwen/Qwen3-Reranker-0.6B \
  --adapter /runs/golden/stages/04-train/output \
  --out /runs/golden/stages/05-merge/output \
  --replace

printf '\n[%s/%s] %s\n' 6 8 '06-package: Make the model describe itself, and verify it' >&2
mkdir -p -- stages/06-package
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers package \
  --model /runs/golden/stages/05-merge/output \
  --base Qwen/Qwen3-Reranker-0.6B \
  --adapter /runs/golden/stages/04-train/output \
  --scoring /runs/golden/files/scoring.packaged.json \
  --probes /runs/golden/data/eval.jsonl \
  --out /runs/golden/model \
  --report /runs/golden/stages/06-package/output/verification.json

printf '\n[%s/%s] %s\n' 7 8 '07-evaluate: Score the packaged model as its user loads it' >&2
mkdir -p -- stages/07-evaluate
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model /runs/golden/model \
  --scoring /runs/golden/model/scoring.json \
  --data /runs/golden/data/eval.jsonl \
  --out /runs/golden/stages/07-evaluate/output

printf '\n[%s/%s] %s\n' 8 8 '08-report: Compare, judge and report' >&2
mkdir -p -- stages/08-report
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 \
  /orch/bin/python -m orchestrator.report /runs/golden

