python - <<'END'
from datasets import load_dataset

load_dataset("json", data_files="/data/nodata.jsonl")
END
