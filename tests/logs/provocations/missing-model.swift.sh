python -m swift.cli.sft --model /data/Qwen3-0.6B --model_type qwen3 --dataset rows.jsonl
