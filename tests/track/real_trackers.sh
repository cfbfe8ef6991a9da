#!/bin/sh
# Installs the five trackers into FOLDER, beside what .venv has, and tests with each one's own client: make test-track.
set -eu
folder=$1
if [ ! -e "$folder/ready" ]; then
    .venv/bin/python -m venv "$folder"
    .venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/beside.pth"
    # without constraints.txt: they want an older protobuf than it has, and get what they lack in their own environment
    "$folder/bin/python" -m pip install --quiet --no-warn-conflicts wandb==0.31.0 swanlab==0.10.3 mlflow-skinny==3.17.2 trackio==0.43.0
    touch "$folder/ready"
fi
"$folder/bin/python" -m pytest tests/track/real_trackers.py
