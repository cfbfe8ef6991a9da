"""Which distributions an interpreter has, read from its folders: no interpreter is started for it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

# What says that a distribution is installed; conda's packages of PyTorch have the older form, with Python's version.
_DISTRIBUTION = re.compile(r"(.+?)-([^-]+)(?:-py[\d.]+)?\.(?:dist|egg)-info")
_INTERPRETER = re.compile(r"python(?P<version>3(?:\.\d+)?)?")
_LIBRARY = re.compile(r"python(?P<version>3\.\d+)")
_PATCH_LEVEL = re.compile(r'#define PY_VERSION\s+"([\d.]+)"')
_SCRIPT = b"#!"
_MOST_CHARS = 1 << 20


def normalise(name: str) -> str:
    """Return a distribution's name as the folders spell it."""
    return name.lower().replace("-", "_").replace(".", "_")


def list_distributions(folders: Iterable[str | Path]) -> Iterator[tuple[str, str]]:
    """Yield (normalised name, version) of every distribution in the folders of a path, in its order."""
    for folder in dict.fromkeys(map(str, folders)):
        for entry in _list_names(folder or "."):
            if found := _DISTRIBUTION.fullmatch(entry):
                yield normalise(found[1]), found[2]


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
        if settings := _read_settings(prefix / "pyvenv.cfg"):
            return _find_in_environment(prefix, settings)
    prefix, version = real.parent.parent, named["version"] or ""
    library = _find_library(prefix, version if "." in version else "")
    if library is None:
        return None
    return _read_full_version(prefix, library), _with_paths([*_list_user(library), *_list_sites(prefix, library)])


def _find_in_environment(prefix: Path, settings: dict[str, str]) -> tuple[str, list[str]] | None:
    """Return version and folders of a virtual environment, those of the interpreter behind it where it shows them."""
    full = settings.get("version") or settings.get("version_info") or ""
    library = _find_library(prefix, ".".join(full.split(".")[:2]))
    if library is None:
        return None
    sites = _list_sites(prefix, library)
    if settings.get("include-system-site-packages", "").lower() == "true":
        sites += [*_list_user(library), *_list_sites(Path(settings.get("home", "")).parent, library)]
    return full or library, _with_paths(sites)


def _read_full_version(prefix: Path, library: str) -> str:
    """Return the version with its last number where the headers are there that say it."""
    lines = _read_text(prefix / "include" / f"python{library}" / "patchlevel.h")
    found = _PATCH_LEVEL.search(lines)
    return found[1] if found else library


def _read_text(path: Path) -> str:
    """Return the beginning of a regular file, which is all of those that are meant."""
    try:
        if not path.is_file():
            return ""
        with path.open(encoding="utf-8", errors="replace") as stream:
            return stream.read(_MOST_CHARS)
    except OSError:
        return ""


def _read_settings(path: Path) -> dict[str, str]:
    pairs = (line.partition("=") for line in _read_text(path).splitlines())
    return {key.strip().lower(): value.strip() for key, equals, value in pairs if equals}


def _find_library(prefix: Path, version: str) -> str | None:
    """Return the version whose packages lie below a prefix: the one that is asked for, else the only one."""
    found = {match["version"] for name in _list_names(prefix / "lib") if (match := _LIBRARY.fullmatch(name))}
    if version:
        return version if version in found else None
    return found.pop() if len(found) == 1 else None


def _list_sites(prefix: Path, version: str) -> list[str]:
    """Return where packages lie below a prefix; Debian has folders of its own."""
    names = [f"{lib}/python{version}/site-packages" for lib in ("lib", "lib64")]
    names += [
        f"local/lib/python{version}/dist-packages",
        f"lib/python{version}/dist-packages",
        "lib/python3/dist-packages",
    ]
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
                added += [os.path.join(site, line) for line in _read_lines(Path(site, name))]  # noqa: PTH118
    return [*first, *sites, *(entry for entry in added if os.path.isdir(entry))]  # noqa: PTH112


def _read_lines(path: Path) -> list[str]:
    """Return the folders that a .pth file names; its lines of code are left alone."""
    lines = (line.strip() for line in _read_text(path).splitlines())
    return [line for line in lines if line and "\0" not in line and not line.startswith(("#", "import ", "import\t"))]


def _list_names(folder: str | Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208  (names are all that is needed)
    except (OSError, ValueError):
        return []
