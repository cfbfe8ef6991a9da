"""Hold what `workers package` writes against the files in pinned/: report, scoring.json, card and settings.

`ORCH_PIN=1 pytest tests/workers/test_package*.py` writes them anew. Numbers agree within a tolerance, hashes and
versions are not held; everything else is held to the letter.
"""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path

PINNED = Path(__file__).parent / "pinned"
# not what they hold, which is another with every version of a library and every machine
MASKED = {"files", "versions", "__version__"}
# what Orch writes into the files of a model; the rest is transformers' own
OWN_SETTINGS = {
    "config.json": ("use_cache", "pad_token_id", "sentence_transformers"),
    "tokenizer_config.json": (
        *("model_max_length", "padding_side", "truncation_side", "pad_token", "tokenizer_class", "backend"),
        *("is_local", "local_files_only", "chat_template", "max_length", "stride", "truncation_strategy"),
    ),
    "tokenizer.json": ("truncation", "padding", "pre_tokenizer", "post_processor"),
}
TEXTS = (".jinja", ".md")
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w.])")
SMALL = re.compile(r"\d(?:\.\d+)?e-\d+|(?<=up to )0\.\d+(?= away)")


def tidy(value, key=""):
    """Return the value fit to be pinned: masked, and short numbers."""
    if key in MASKED and isinstance(value, dict):
        return sorted(value)
    if key == "sentence_transformers" and isinstance(value, dict) and "version" in value:
        return {**value, "version": "…"}
    if isinstance(value, dict):
        return {name: tidy(one, name) for name, one in value.items()}
    if isinstance(value, list):
        return [tidy(one) for one in value]
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.5g}")
    return value


def by_name(report):
    """Return the report with its checks by name: their order is not held."""
    return {**report, "checks": {check["name"]: check for check in report["checks"]}}


def collect(folder: Path | None, report: Path) -> dict[str, object]:
    """Return all that is pinned, by name."""
    found: dict[str, object] = {"report": tidy(by_name(json.loads(report.read_text(encoding="utf-8"))))}
    for path in sorted(folder.rglob("*")) if folder is not None else ():
        name = path.relative_to(folder).as_posix()
        if path.suffix in TEXTS:
            found[name] = path.read_text(encoding="utf-8")
        elif path.suffix == ".json":
            value = json.loads(path.read_text(encoding="utf-8"))
            if name in OWN_SETTINGS:
                value = {key: value[key] for key in OWN_SETTINGS[name] if key in value}
            found[name] = tidy(value)
    return found


def find_differences(wanted, found, place=""):
    """Yield a line for every place where the two differ."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for key in [*wanted, *(key for key in found if key not in wanted)]:
            if key not in wanted or key not in found:
                yield f"{place}.{key}: {'not there any more' if key in wanted else 'new'}"
            else:
                yield from find_differences(wanted[key], found[key], f"{place}.{key}")
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        for index, (one, other) in enumerate(zip(wanted, found, strict=True)):
            yield from find_differences(one, other, f"{place}[{index}]")
    elif not is_same(wanted, found, place):
        yield f"{place}: {wanted!r}\n   now {found!r}"


def is_same(wanted, found, place):
    """Tell whether two values agree: numbers nearly, and the numbers in a failure or a card not at all."""
    if isinstance(wanted, float) and isinstance(found, float):
        return math.isclose(wanted, found, rel_tol=0.02, abs_tol=2e-4)
    if isinstance(wanted, str) and isinstance(found, str):
        masks = SMALL if place.endswith(".md") else NUMBER if place.endswith(".failure") else None
        return wanted == found or (masks is not None and masks.sub("#", wanted) == masks.sub("#", found))
    return wanted == found and type(wanted) is type(found)


def check_pinned(name: str, folder: Path | None, report: Path) -> None:
    """Fail with every difference between what was written and what is pinned under the name."""
    path, found = PINNED / f"{name}.json", collect(folder, report)
    if os.environ.get("ORCH_PIN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(dump(found), encoding="utf-8")
    differences = list(find_differences(json.loads(path.read_text(encoding="utf-8")), found, name))
    assert not differences, "\n".join(differences)


def dump(found) -> str:
    """Return JSON of few lines: one for what is small."""

    def write(value, indent):
        flat = json.dumps(value, ensure_ascii=False)
        if len(flat) <= 100 or not isinstance(value, (dict, list)):
            return flat
        pad = " " * (indent + 1)
        if isinstance(value, dict):
            inner = [f"{json.dumps(key, ensure_ascii=False)}: {write(one, indent + 1)}" for key, one in value.items()]
        elif all(isinstance(one, (int, float)) for one in value):
            return flat
        else:
            inner = [write(one, indent + 1) for one in value]
        opening, closing = "{}" if isinstance(value, dict) else "[]"
        return opening + "\n" + ",\n".join(pad + one for one in inner) + "\n" + " " * indent + closing

    return write(found, 0) + "\n"
