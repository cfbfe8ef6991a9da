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
  --train /project/datasets_example/sft.train.jsonl /project/datasets_example/sft_chat.train.jsonl \
  --eval /project/datasets_example/sft.eval.jsonl \
  --kind chat \
  --form swift-chat \
  --out /runs/golden/data \
  --max-dropped 0 \
  --seed 42 \
  --max-tokens 4096 \
  --truncation drop \
  --answer-prefix '<think>

</think>

' \
  --validation-ratio 0.05 \
  --full-batch 1

printf '\n[%s/%s] %s\n' 2 7 '02-baseline-native: Score the untouched base LLM' >&2
mkdir -p -- stages/02-baseline-native
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model Qwen/Qwen3-4B \
  --scoring /runs/golden/files/scoring.native.json \
  --data /runs/golden/data/eval.jsonl \
  --out /runs/golden/stages/02-baseline-native/output \
  --cache /cache/orch/scores

printf '\n[%s/%s] %s\n' 3 7 '03-train: Fine-tune with swift and LoRA: 2 processes, 32 rows a step' >&2
mkdir -p -- stages/03-train
env HF_DATASETS_CACHE=/runs/golden/stages/03-train/cache PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers launch \
  --nproc_per_node 2 \
  --checkpoints /runs/golden/stages/03-train/output \
  -m swift.cli.sft \
  --model Qwen/Qwen3-4B \
  --model_type qwen3 \
  --template qwen3 \
  --use_hf True \
  --dataset /runs/golden/data/train.jsonl \
  --val_dataset /runs/golden/data/validation.jsonl \
  --split_dataset_ratio 0 \
  --strict True \
  --max_length 4096 \
  --truncation_strategy delete \
  --tuner_type lora \
  --lora_rank 64 \
  --lora_alpha 128 \
  --lora_dropout 0.05 \
  --target_modules all-linear \
  --output_dir /runs/golden/stages/03-train/output \
  --learning_rate 5e-05 \
  --num_train_epochs 3 \
  --per_device_train_batch_size 2 \
  --gradient_accumulation_steps 8 \
  --seed 42 \
  --per_device_eval_batch_size 2 \
  --group_by_length True \
  --gradient_checkpointing True \
  --warmup_ratio 0.05 \
  --eval_steps 50 \
  --save_steps 50 \
  --early_stop_interval 5 \
  --eval_strategy steps \
  --save_total_limit 2 \
  --create_checkpoint_symlink True \
  --add_version False \
  --check_model False \
  --report_to none \
  --ddp_timeout 1800 \
  --torch_dtype bfloat16 \
  --bf16 True \
  --fp16 False

printf '\n[%s/%s] %s\n' 4 7 '04-merge: Merge the LoRA weights into the base model' >&2
mkdir -p -- stages/04-merge
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers fresh \
  --out /runs/golden/stages/04-merge/output \
  --replace \
  --require tokenizer.json tokenizer_config.json \
  -- swift.cli.export \
  --adapters /runs/golden/stages/03-train/output/best \
  --merge_lora true \
  --output_dir '{fresh}'

printf '\n[%s/%s] %s\n' 5 7 '05-package: Make the model describe itself, and verify it' >&2
mkdir -p -- stages/05-package
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers package \
  --model /runs/golden/stages/04-merge/output \
  --base Qwen/Qwen3-4B \
  --adapter /runs/golden/stages/03-train/output/best \
  --scoring /runs/golden/files/scoring.packaged.json \
  --probes /runs/golden/data/eval.jsonl \
  --out /runs/golden/model \
  --report /runs/golden/stages/05-package/output/verification.json

printf '\n[%s/%s] %s\n' 6 7 '06-evaluate: Score the packaged model as its user loads it' >&2
mkdir -p -- stages/06-evaluate
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model /runs/golden/model \
  --scoring /runs/golden/model/scoring.json \
  --data /runs/golden/data/eval.jsonl \
  --out /runs/golden/stages/06-evaluate/output

printf '\n[%s/%s] %s\n' 7 7 '07-report: Compare, judge and report' >&2
mkdir -p -- stages/07-report
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 \
  /orch/bin/python -m orchestrator.report /runs/golden

