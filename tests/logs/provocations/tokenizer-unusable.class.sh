mkdir model; echo '{"model_type": "no-such-family"}' > model/config.json
echo '{"tokenizer_class": "Qwen9Tokenizer"}' > model/tokenizer_config.json
python -c 'from transformers import AutoTokenizer; AutoTokenizer.from_pretrained("./model")'
