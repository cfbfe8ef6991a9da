"""A recipe on its way in: YAML text with places, its schema, and every problem at once."""

import sys
from types import ModuleType

# pydantic would ask every installed distribution whether it is a plugin of its: a fifth of its start, for code that has
# no business with a recipe. Where pydantic no longer looks for its plugins by this module, nothing changes.
_LOADER = ModuleType("pydantic.plugin._loader")
_LOADER.get_plugins = tuple  # type: ignore[attr-defined]
sys.modules.setdefault(_LOADER.__name__, _LOADER)
