setpriv --reuid=65534 --regid=65534 --clear-groups python -c '
import json

with open("/root/rows.jsonl") as stream:
    json.load(stream)'
