python - <<'END'
from transformers.utils.versions import require_version

require_version("torch>=99.0")
END
