"""Let DeepSpeed read the configuration named in argv; print which keys it looked for, and its gradient clipping."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


class Asked(dict[str, Any]):
    """A configuration that remembers what was looked for in it."""

    def __init__(self, content: dict[str, Any]) -> None:
        super().__init__(content)
        self.keys_asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.keys_asked.add(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        self.keys_asked.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.keys_asked.add(str(key))
        return super().__contains__(key)


def main() -> None:
    from deepspeed.runtime.config import DeepSpeedConfig

    asked = Asked(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    config = DeepSpeedConfig(asked)
    print(json.dumps({"asked": sorted(asked.keys_asked), "gradient_clipping": config.gradient_clipping}))  # noqa: T201


if __name__ == "__main__":
    main()
