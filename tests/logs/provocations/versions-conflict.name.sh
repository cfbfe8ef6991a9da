python - <<'END'
from transformers import AdamW
END
