# Orch, the trainers and the tested versions in one image. Nothing is compiled.
#   docker build -t orch .                                   for a CPU
#   docker build -t orch --build-arg TORCH=cuda .            with CUDA's libraries, which torch's own wheels carry
#   docker build -t orch --build-arg 'EXTRAS=[swift]' .      one trainer; EXTRAS= (empty) is Orch alone: it checks and renders
# Run it as yourself, in the folder that holds recipes, data and runs; the second volume keeps downloaded models:
#   docker run --rm -it --user "$(id -u):$(id -g)" -v "$PWD:/work" -v orch-home:/home/orch orch run recipes/e5_embedding.yaml
#   ... on GPUs, whose processes talk through shared memory:    docker run --gpus all --ipc=host ...
ARG PYTHON=3.11.14

FROM python:${PYTHON}-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN pip install --no-cache-dir -c constraints.txt build hatchling \
 && python -m build --wheel --no-isolation --outdir /dist

FROM python:${PYTHON}-slim-bookworm
ARG TORCH=cpu
ARG EXTRAS=[all]
COPY constraints.txt /opt/orch/
COPY --from=build /dist/ /opt/orch/
# The package index has torch for CUDA, several gigabytes of it; the build for a CPU lies in an index of PyTorch's own.
RUN case "$TORCH" in \
      cpu) set -- --extra-index-url https://download.pytorch.org/whl/cpu ;; \
      cuda) set -- ;; \
      *) echo "TORCH is cpu or cuda, not $TORCH" >&2; exit 1 ;; \
    esac \
 && pip install --no-cache-dir -c /opt/orch/constraints.txt "$@" "$(echo /opt/orch/*.whl)$EXTRAS"
# Whoever --user names may write here, and nobody may remove another's files.
RUN useradd --uid 1000 --create-home orch \
 && install -d -m 1777 /home/orch /work
ENV HOME=/home/orch
USER 1000:1000
WORKDIR /work
ENTRYPOINT ["orch"]
CMD ["--help"]
