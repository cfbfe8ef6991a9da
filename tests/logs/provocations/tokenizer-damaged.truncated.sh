mkdir model; echo '{"model_type": "qwen3"}' > model/config.json
echo '{"version": "1.0", "added_tokens": [], "mod' > model/tokenizer.json
python -c 'from transformers import AutoTokenizer; AutoTokenizer.from_pretrained("./model")'
