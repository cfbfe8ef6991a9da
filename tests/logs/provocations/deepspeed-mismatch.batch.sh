python - <<'END'
from transformers import TrainingArguments
from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

arguments = TrainingArguments(output_dir="output", per_device_train_batch_size=2, use_cpu=True)
config = HfTrainerDeepSpeedConfig({"train_micro_batch_size_per_gpu": 4, "zero_optimization": {"stage": 0}})
config.trainer_config_process(arguments)
config.trainer_config_finalize(arguments, None, 10)
END
