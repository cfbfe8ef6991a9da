mkdir /data/Qwen3-0.6B
echo '{"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}' > /data/Qwen3-0.6B/config.json
python -m swift.cli.sft --model /data/Qwen3-0.6B --model_type qwen3 --check_model false --use_hf true --dataset rows.jsonl --output_dir output --lora_rnak 8
