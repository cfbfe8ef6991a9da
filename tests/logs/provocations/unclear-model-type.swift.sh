mkdir /data/finance-model
echo '{"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}' > /data/finance-model/config.json
echo '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}' > rows.jsonl
python -m swift.cli.sft --model /data/finance-model --check_model false --dataset rows.jsonl --output_dir output --use_hf true
