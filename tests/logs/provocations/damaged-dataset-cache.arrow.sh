python - <<'END'
import pathlib
from datasets import load_dataset

pathlib.Path("rows.jsonl").write_text('{"query": "a"}\n')
load_dataset("json", data_files="rows.jsonl", cache_dir="cache")
for file in pathlib.Path("cache").rglob("*.arrow"):
    file.write_bytes(file.read_bytes()[:40])
load_dataset("json", data_files="rows.jsonl", cache_dir="cache")
END
