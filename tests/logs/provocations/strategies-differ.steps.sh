python - <<'END'
from transformers import TrainingArguments

TrainingArguments(
    output_dir="output", load_best_model_at_end=True, eval_strategy="steps", save_strategy="steps", eval_steps=200, save_steps=500
)
END
