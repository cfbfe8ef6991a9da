mkdir bin; ln -s "$(command -v ninja)" bin/ninja
export TORCH_EXTENSIONS_DIR=$PWD/extensions PATH=$(dirname "$(command -v python)"):$PWD/bin CXX=c++
python - <<'END'
from deepspeed.ops.op_builder import CPUAdamBuilder

CPUAdamBuilder().load(verbose=True)
END
