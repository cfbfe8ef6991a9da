mkdir checkpoint-20; : > checkpoint-20/trainer_state.json
python - <<'END'
from transformers import TrainerState

TrainerState.load_from_json("checkpoint-20/trainer_state.json")
END
