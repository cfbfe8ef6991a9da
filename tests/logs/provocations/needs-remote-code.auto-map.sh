mkdir model; echo '{"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}' > model/config.json
python -c 'from transformers import AutoConfig; AutoConfig.from_pretrained("./model")'
