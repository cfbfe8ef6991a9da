python - <<'END'
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
PreTrainedTokenizerFast(tokenizer_object=words)(["a", "b b"], padding=True)
END
