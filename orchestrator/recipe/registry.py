"""The tools that train, by the names that recipes use, and how a recipe's word is held against such a registry."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

# Each tool and the module that describes it as its `BACKEND`: a new one is one line here.
TOOLS: dict[str, str] = {
    "flagembedding": "orchestrator.backends.flagembedding",
    "swift": "orchestrator.backends.swift",
    "sentence-transformers": "orchestrator.backends.sentence_transformers",
}


class OneOf(msgspec.Struct, frozen=True):
    """Lets pydantic take a word of a registry and no other, with the error of a `Literal` of its names."""

    names: Callable[[], Iterable[str]]  # asked anew each time: registries grow

    def check(self, value: Any) -> str:
        """Return the word. Raises PydanticKnownError for what is none of the registry's."""
        from pydantic_core import PydanticKnownError

        known = list(self.names())
        if isinstance(value, str) and value in known:
            return value
        *names, last = (f"'{name}'" for name in known)
        raise PydanticKnownError("literal_error", {"expected": f"{', '.join(names)} or {last}"})

    def __get_pydantic_core_schema__(self, _source: Any, _handler: Any) -> Any:
        """Return pydantic's own schema of the check."""
        from pydantic_core.core_schema import no_info_plain_validator_function, plain_serializer_function_ser_schema

        as_it_is = plain_serializer_function_ser_schema(lambda value: value)
        return no_info_plain_validator_function(self.check, serialization=as_it_is)

    def __get_pydantic_json_schema__(self, _schema: Any, _handler: Any) -> dict[str, Any]:
        """Return the JSON Schema: the names that are registered when it is asked for."""
        return {"enum": list(self.names()), "type": "string"}
