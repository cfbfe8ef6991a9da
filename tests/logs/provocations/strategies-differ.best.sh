python - <<'END'
from transformers import TrainingArguments

TrainingArguments(output_dir="output", load_best_model_at_end=True, eval_strategy="epoch", save_strategy="steps")
END
