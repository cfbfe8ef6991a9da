#!/usr/bin/env bash
# Every stage of this run, in order, with plain bash: `bash run.sh`.
# One stage alone: `bash stages/<stage>/command.sh`. Exit code 8 means that the gate was missed.
set -euo pipefail
cd -- /runs/golden
# FlagEmbedding would log HF_TOKEN; huggingface_hub reads this older name of it as well, and nobody logs that.
if [ -n "${HF_TOKEN-}" ]; then export HUGGING_FACE_HUB_TOKEN="$HF_TOKEN"; unset HF_TOKEN; fi

printf '\n[%s/%s] %s\n' 1 9 '01-prepare: Read, check and split the data' >&2
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
  --query-max-len 128 \
  --passage-max-len 256 \
  --query-instruction 'A: ' \
  --passage-instruction 'B: ' \
  --full-batch 2 \
  --limit-train 16 \
  --limit-eval 12

printf '\n[%s/%s] %s\n' 2 9 '02-tiny-model: Build a tiny model of the same architecture' >&2
mkdir -p -- stages/02-tiny-model
env CUDA_VISIBLE_DEVICES='' HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers tiny_model \
  --like decoder \
  --model-type qwen3 \
  --texts /runs/golden/data/train.jsonl /runs/golden/data/eval.jsonl \
  --out /runs/golden/stages/02-tiny-model/output

printf '\n[%s/%s] %s\n' 3 9 '03-baseline-native: Score the untouched base model in Qwen3-Reranker'"'"'s own prompt' >&2
mkdir -p -- stages/03-baseline-native
env CUDA_VISIBLE_DEVICES='' HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model /runs/golden/stages/02-tiny-model/output \
  --scoring /runs/golden/files/scoring.native.json \
  --data /runs/golden/data/eval.jsonl \
  --out /runs/golden/stages/03-baseline-native/output \
  --device cpu

printf '\n[%s/%s] %s\n' 4 9 '04-baseline-trained-format: Score the untouched base model in the format of the training' >&2
mkdir -p -- stages/04-baseline-trained-format
env CUDA_VISIBLE_DEVICES='' HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model /runs/golden/stages/02-tiny-model/output \
  --scoring /runs/golden/files/scoring.trained-format.json \
  --data /runs/golden/data/eval.jsonl \
  --out /runs/golden/stages/04-baseline-trained-format/output \
  --device cpu

printf '\n[%s/%s] %s\n' 5 9 '05-train: Fine-tune with flagembedding and LoRA' >&2
mkdir -p -- stages/05-train
env CUDA_VISIBLE_DEVICES='' DS_ACCELERATOR=cpu HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false TORCH_EXTENSIONS_DIR=/cache/orch/torch_extensions/fe97caadc1d6 \
  /env/bin/python /orch/orchestrator/workers launch \
  --nproc_per_node 1 /orch/orchestrator/workers train_flagembedding \
  --speedups last_logits trim_padding \
  -m FlagEmbedding.finetune.reranker.decoder_only.base \
  --model_name_or_path /runs/golden/stages/02-tiny-model/output \
  --model_type decoder \
  --train_data /runs/golden/data/train.jsonl \
  --cache_path /runs/golden/stages/05-train/cache \
  --train_group_size 4 \
  --query_max_len 128 \
  --passage_max_len 256 \
  --query_instruction_for_rerank 'A: ' \
  --passage_instruction_for_rerank 'B: ' \
  --lora_rank 8 \
  --lora_alpha 16 \
  --lora_dropout 0.1 \
  --target_modules q_proj k_proj v_proj o_proj \
  --output_dir /runs/golden/stages/05-train/output \
  --learning_rate 0.01 \
  --num_train_epochs 2 \
  --per_device_train_batch_size 2 \
  --gradient_accumulation_steps 1 \
  --seed 42 \
  --warmup_steps 0.1 \
  --weight_decay 0.01 \
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

printf '\n[%s/%s] %s\n' 6 9 '06-merge: Merge the LoRA weights into the base model' >&2
mkdir -p -- stages/06-merge
env CUDA_VISIBLE_DEVICES='' HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers merge \
  --base /runs/golden/stages/02-tiny-model/output \
  --adapter /runs/golden/stages/05-train/output \
  --out /runs/golden/stages/06-merge/output \
  --replace

printf '\n[%s/%s] %s\n' 7 9 '07-package: Make the model describe itself, and verify it' >&2
mkdir -p -- stages/07-package
env CUDA_VISIBLE_DEVICES='' HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers package \
  --model /runs/golden/stages/06-merge/output \
  --base /runs/golden/stages/02-tiny-model/output \
  --adapter /runs/golden/stages/05-train/output \
  --scoring /runs/golden/files/scoring.packaged.json \
  --probes /runs/golden/data/eval.jsonl \
  --out /runs/golden/model \
  --report /runs/golden/stages/07-package/output/verification.json

printf '\n[%s/%s] %s\n' 8 9 '08-evaluate: Score the packaged model as its user loads it' >&2
mkdir -p -- stages/08-evaluate
env CUDA_VISIBLE_DEVICES='' HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
  /env/bin/python /orch/orchestrator/workers score \
  --model /runs/golden/model \
  --scoring /runs/golden/model/scoring.json \
  --data /runs/golden/data/eval.jsonl \
  --out /runs/golden/stages/08-evaluate/output \
  --device cpu

printf '\n[%s/%s] %s\n' 9 9 '09-report: Compare, judge and report' >&2
mkdir -p -- stages/09-report
env PYTHONFAULTHANDLER=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 \
  /orch/bin/python -m orchestrator.report /runs/golden

