"""What a recipe asks that the installed version cannot do: refused with the reason and a version that can."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.backends.arguments import load_arguments
from orchestrator.backends.arguments.snapshots import describe_versions, find_set, is_near, version_sets
from orchestrator.backends.protocol import Found, Job
from orchestrator.errors import Problem
from orchestrator.machine.packages import parse_release

# ms-swift 3.6 takes one positive from the last message and the negatives from `rejected_response`; 3.12 and 4 read what
# Orch writes, `positive_messages` and `negative_messages` (RowPreprocessor.standard_keys).
_READS_GROUPS = (3, 12)


def check_versions(job: Job, snapshot: str, train: Mapping[str, Any]) -> Iterator[Found]:
    """Yield the arguments that the installed version does not have; `train` has its spelling already.

    Only where a snapshot was taken from these minor versions: of others the backend is asked itself, before the run.
    """
    if not is_near(snapshot, find_set(snapshot, job.versions), job.versions):
        return
    known = load_arguments(snapshot, job.versions)
    for name in train:
        if name not in known and (having := _find_having(snapshot, name)):
            yield ("train", name), _refuse(snapshot, job, f"no argument {name}", having)


def check_swift_versions(job: Job, train: Mapping[str, Any]) -> Iterator[Found]:
    """Yield what ms-swift 3 cannot do: arguments, the rows of embedding models and rerankers, Matryoshka sizes."""
    yield from check_versions(job, "swift", train)
    installed = job.versions.get("ms-swift")
    if installed is not None and parse_release(installed) < _READS_GROUPS and job.recipe.task != "sft":
        message = f"ms-swift {installed} reads the rows of {job.recipe.task} models in another form than Orch writes"
        yield ("task",), Problem(message, "install ms-swift 3.12 or later, such as the tested 4.6.0")
    loss = job.recipe.loss
    if loss is not None and loss.mrl_dims and "mrl_dims" not in load_arguments("swift", job.versions):
        having = _find_having("swift", "mrl_dims")
        yield ("loss", "mrl_dims"), _refuse("swift", job, "no Matryoshka loss", having)


def _refuse(snapshot: str, job: Job, lacks: str, having: str) -> Problem:
    return Problem(f"{describe_versions(snapshot, job.versions)} has {lacks}", f"remove it, or install {having}")


def _find_having(snapshot: str, name: str) -> str:
    """Return the first set of versions that has an argument, the tested one before others; empty when none has."""
    having = (one.versions for one in version_sets(snapshot) if name in load_arguments(snapshot, one.versions))
    return next((describe_versions(snapshot, versions) for versions in having), "")
