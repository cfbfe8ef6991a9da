mkdir model; echo '{"model_type": "qwen9"}' > model/config.json
python -c 'from transformers import AutoConfig; AutoConfig.from_pretrained("./model")'
