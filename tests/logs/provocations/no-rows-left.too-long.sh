mkdir /data/Qwen3-0.6B
echo '{"text": "rows of a long story that every sensible tokenizer knows"}' > texts.jsonl
PYTHONPATH=$ORCH python -m orchestrator.workers tiny_model --like chat --texts texts.jsonl --out /data/Qwen3-0.6B > /dev/null
for n in 1 2 3 4; do echo '{"messages": [{"role": "user", "content": "rows of a long story that every tokenizer knows"}, {"role": "assistant", "content": "a long story"}]}'; done > rows.jsonl
python -m swift.cli.sft --model /data/Qwen3-0.6B --model_type qwen3 --template qwen3 --check_model false --dataset rows.jsonl --output_dir output --use_hf true --max_steps 1 --max_length 8
