"""Python distributions: their names and versions as they compare, and which of them an interpreter has.

What an interpreter has is read from its folders: none is started for it where they tell. `packaging.version` is not
used: it refuses what vendors append to a version (2.4.0-nv24.07), and it orders a release candidate before its release,
whose fixes it has.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from orchestrator.machine.files import find_text
from orchestrator.machine.process import run

DISTRIBUTIONS = (
    "FlagEmbedding", "ms-swift", "sentence-transformers", "transformers", "peft", "deepspeed", "accelerate",
    "datasets", "tokenizers", "safetensors", "torch", "numpy", "ir-measures",
    "flash-attn", "kernels", "liger-kernel", "bitsandbytes", "hqq", "eetq", "optimum-quanto",
)  # fmt: skip
# What single arguments of a trainer ask for (checks/settings.py).
OPTIONAL = (
    "tensorboard", "tensorboardX", "wandb", "swanlab", "mlflow", "mlflow-skinny", "comet-ml", "trackio",
    "galore-torch", "schedulefree", "lomo-optim", "apollo-torch", "evalscope", "jieba", "unsloth",
)  # fmt: skip
# What says that a distribution is installed; conda's packages of PyTorch have the older form, with Python's version.
_DISTRIBUTION = re.compile(r"(.+?)-([^-]+)(?:-py[\d.]+)?\.(?:dist|egg)-info")
_INTERPRETER = re.compile(r"python(?P<version>3(?:\.\d+)?)?")
_LIBRARY = re.compile(r"python(?P<version>3\.\d+)")
_PATCH_LEVEL = re.compile(r'#define PY_VERSION\s+"([\d.]+)"')
_SCRIPT = b"#!"
_FOLDER = re.compile(r"(?!#|import[ \t])[^\0]+$")
_NUMBERS = re.compile(r"\d+(?:\.\d+)*")
# What PYTHONPATH adds, and the user's own packages, are there for a stage too; the working directory is not.
_PROBE = """
import sys
sys.path[:] = filter(None, sys.path)
import importlib.metadata as m, json, platform
found = [(d.name.lower().replace("-", "_").replace(".", "_"), d.version) for d in m.distributions()]
print(json.dumps({"python": platform.python_version(), **dict(reversed(found))}))
"""


def normalise(name: str) -> str:
    """Return a distribution's name as all spellings of it compare (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse_release(version: str) -> tuple[int, ...]:
    """Return the numbers of a release without trailing zeros, so that 5.0 is 5.0.0; empty where there are none.

    What comes after them (rc1, .dev0, +cpu) is left out: a release candidate counts as its release, and a build for
    another device as the same one.
    """
    numbers = _read_numbers(version)
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def find_major(version: str | None) -> int | None:
    """Return the first number of a version; None where it is not known."""
    return next(iter(_read_numbers(version or "")), None)


def _read_numbers(version: str) -> list[int]:
    found = _NUMBERS.match(version)
    return [int(number) for number in found[0].split(".")] if found else []


def spell(name: str) -> str:
    """Return a distribution's name as folders of packages spell it, and as provenance.json has it."""
    return normalise(name).replace("-", "_")


_ML_PACKAGES = {spell(name): name for name in (*DISTRIBUTIONS, *OPTIONAL)}


def find_versions(python: str, *, may_run: bool = True, also: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the versions of Python, of the ML packages and of those in `also`; empty when it cannot be told.

    They are read from its folders. Where those do not tell, the interpreter is asked, unless `may_run` forbids it.
    """
    names = {"python": "python"} | _ML_PACKAGES | {spell(name): name for name in also}
    return {names[name]: version for name, version in _find_all(python, may_run).items() if name in names}


def find_packages(python: str, *, may_run: bool = True) -> dict[str, str]:
    """Return name and version of every distribution that an interpreter has, as `find_versions` finds them."""
    left_out = "python" if python == sys.executable else None
    return {name: version for name, version in _find_all(python, may_run).items() if name != left_out}


@cache
def _find_all(python: str, may_run: bool) -> dict[str, str]:  # noqa: FBT001
    """Return Python's version and that of each distribution.

    importlib.metadata would parse each package's whole description for it, which takes longer than all of `orch check`.
    """
    is_own = python == sys.executable
    known = (sys.version.split()[0], sys.path) if is_own else find_path(python)
    if known is not None:
        found: dict[str, str] = {}
        for name, version in list_distributions(known[1]):
            found.setdefault(name, version)
        if is_own or not may_run or found.keys() & _ML_PACKAGES.keys():
            return {"python": known[0]} | dict(sorted(found.items()))
    return _probe(python) if may_run else {}


def _probe(python: str) -> dict[str, str]:
    """Return what another interpreter says of itself."""
    probe = run((python, "-c", _PROBE), 20.0)
    with suppress(ValueError):
        found = json.loads(probe.stdout) if probe.exit_code == 0 else {}
        return {str(key): str(value) for key, value in found.items()}
    return {}


def list_distributions(folders: Iterable[str | Path]) -> Iterator[tuple[str, str]]:
    """Yield (normalised name, version) of every distribution in the folders of a path, in its order."""
    for folder in dict.fromkeys(map(str, folders)):
        for entry in _list_names(folder or "."):
            if found := _DISTRIBUTION.fullmatch(entry):
                yield spell(found[1]), found[2]


def find_path(python: str) -> tuple[str, list[str]] | None:
    """Return an interpreter's version and the folders that it looks for packages in.

    None where its files do not tell: it is a script that starts another one, or lies in a layout of its own.
    """
    given = Path(python)
    try:
        real = given.resolve(strict=True)
        with real.open("rb") as stream:
            is_script = stream.read(len(_SCRIPT)) == _SCRIPT
    except OSError:
        return None
    named = _INTERPRETER.fullmatch(real.name)
    if is_script or named is None:
        return None
    for prefix in (given.parent, given.parent.parent):
        lines = (find_text(prefix / "pyvenv.cfg") or "").splitlines()
        pairs = (line.partition("=") for line in lines)
        if settings := {key.strip().lower(): value.strip() for key, equals, value in pairs if equals}:
            return _find_in_environment(prefix, settings)
    prefix, version = real.parent.parent, named["version"] or ""
    if (library := _find_library(prefix, version if "." in version else "")) is None:
        return None
    header = find_text(prefix / "include" / f"python{library}" / "patchlevel.h")
    full = _PATCH_LEVEL.search(header or "")  # the version with its last number, where the headers are there
    sites = _with_paths([*_list_user(library), *_list_sites(prefix, library)])
    return full[1] if full else library, sites


def _find_in_environment(prefix: Path, settings: dict[str, str]) -> tuple[str, list[str]] | None:
    """Return version and folders of a virtual environment, those of the interpreter behind it where it shows them."""
    full = settings.get("version") or settings.get("version_info") or ""
    if (library := _find_library(prefix, ".".join(full.split(".")[:2]))) is None:
        return None
    sites = _list_sites(prefix, library)
    if settings.get("include-system-site-packages", "").lower() == "true":
        sites += [*_list_user(library), *_list_sites(Path(settings.get("home", "")).parent, library)]
    return full or library, _with_paths(sites)


def _find_library(prefix: Path, version: str) -> str | None:
    """Return the version whose packages lie below a prefix: the one that is asked for, else the only one."""
    found = {match["version"] for name in _list_names(prefix / "lib") if (match := _LIBRARY.fullmatch(name))}
    if version:
        return version if version in found else None
    return found.pop() if len(found) == 1 else None


def _list_sites(prefix: Path, version: str) -> list[str]:
    """Return where packages lie below a prefix; Debian has folders of its own."""
    names = [f"{lib}/python{version}/site-packages" for lib in ("lib", "lib64")]
    names += [f"{lib}/dist-packages" for lib in (f"local/lib/python{version}", f"lib/python{version}", "lib/python3")]
    return [str(prefix / name) for name in names]


def _list_user(version: str) -> list[str]:
    if os.environ.get("PYTHONNOUSERSITE"):
        return []
    base = os.environ.get("PYTHONUSERBASE") or os.path.expanduser("~/.local")  # noqa: PTH111  (a user may have no home)
    return [f"{base}/lib/python{version}/site-packages"]


def _with_paths(sites: list[str]) -> list[str]:
    """Return the folders in the order of an interpreter's path: PYTHONPATH, sites, and what their .pth files add."""
    first = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    added = []
    for site in sites:
        for name in sorted(_list_names(site)):
            if name.endswith(".pth"):
                text = find_text(Path(site, name)) or ""
                lines = (line.strip() for line in text.splitlines())
                # the folders that it names; its lines of code are left alone
                added += [os.path.join(site, line) for line in lines if _FOLDER.match(line)]  # noqa: PTH118
    return [*first, *sites, *(entry for entry in added if os.path.isdir(entry))]  # noqa: PTH112


def _list_names(folder: str | Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208  (names are all that is needed)
    except (OSError, ValueError):
        return []


def name_pip(python: str) -> str:
    """Return the command that installs into a Python's environment; one that `uv tool` made for Orch has no pip."""
    has_pip = python != sys.executable or importlib.util.find_spec("pip") is not None
    return f"{python} -m pip install" if has_pip else f"uv pip install --python {python}"
