mkdir -p /data/Qwen3-0.6B
echo '{"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}' > /data/Qwen3-0.6B/config.json
echo '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}' > rows.jsonl
python -m swift.cli.sft --model /data/Qwen3-0.6B --model_type qwen3 --template qwen9 --check_model false --dataset rows.jsonl --output_dir output --use_hf true
