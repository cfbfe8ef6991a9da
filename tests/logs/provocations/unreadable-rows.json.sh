printf '{"query": "a"}\n{"query": "b"\n' > rows.jsonl
python -c 'from datasets import load_dataset; load_dataset("json", data_files="rows.jsonl")'
