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
  --form swift-embedding \
  --out /runs/golden/data \
  --max-dropped 0 \
  --seed 42 \
  --max-tokens 512 \
  --truncation drop \
  --instruction 'Given a question about a service, retrieve the handbook passage that answers it' \
  --validation-ratio 0.05 \
  --min-validation 8 \
  --loss infonce \
  --full-batch 16 \
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

printf '\n[%s/%s] %s\n' 3 7 '03-train: Fine-tune with swift and LoRA: 2 processes, 32 rows a step' >&2
mkdir -p -- stages/03-train
env HF_DATASETS_CACHE=/runs/golden/stages/03-train/cache INFONCE_FAKE_NEG_MARGIN=0.1 INFONCE_INCLUDE_DD=false INFONCE_INCLUDE_QQ=false INFONCE_MASK_FAKE_NEGATIVE=false INFONCE_TEMPERATURE=0.05 INFONCE_USE_BATCH=true PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers launch \
  --nproc_per_node 2 \
  --checkpoints /runs/golden/stages/03-train/output \
  -m swift.cli.sft \
  --model Qwen/Qwen3-Embedding-0.6B \
  --model_type qwen3_emb \
  --template qwen3_emb \
  --use_hf True \
  --task_type embedding \
  --loss_type infonce \
  --dataset /runs/golden/data/train.jsonl \
  --val_dataset /runs/golden/data/validation.jsonl \
  --split_dataset_ratio 0 \
  --strict True \
  --max_length 512 \
  --truncation_strategy delete \
  --tuner_type lora \
  --lora_rank 16 \
  --lora_alpha 32 \
  --lora_dropout 0.1 \
  --target_modules all-linear \
  --output_dir /runs/golden/stages/03-train/output \
  --learning_rate 6e-06 \
  --num_train_epochs 5 \
  --per_device_train_batch_size 8 \
  --gradient_accumulation_steps 2 \
  --seed 42 \
  --per_device_eval_batch_size 4 \
  --eval_steps 200 \
  --save_steps 200 \
  --dataloader_drop_last True \
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

