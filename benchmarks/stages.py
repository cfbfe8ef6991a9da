"""What the starts of stages cost: one smoke run with its stages as forks, beside the same run with each started alone.

    python benchmarks/stages.py [RECIPE] [--times 3] [--by-hand] [--compiled]

Native is `orch run --no-warm`; with `--by-hand` it is `bash run.sh` in a folder that `orch render` has written, with no
Orch around it. Weights and scores of both sides are compared byte for byte. Kept in benchmarks/stages.json.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from itertools import count
from pathlib import Path

import record

ROOT = Path(__file__).resolve().parent.parent
ORCH = str(Path(sys.executable).with_name("orch"))
COMPARED = ("model/*.safetensors", "stages/*/output/scores.jsonl", "stages/*/output/*.safetensors")


def hash_results(run: Path) -> dict[str, str]:
    """Return the hash of every file of weights and scores of a run."""
    found = sorted(path for pattern in COMPARED for path in run.glob(pattern))
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="qwen3_reranker")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--by-hand", action="store_true")
    parser.add_argument("--compiled", action="store_true", help="DeepSpeed has compiled what it compiles once")
    asked = parser.parse_args()
    recipe = str(ROOT / "recipes" / f"{asked.recipe}.yaml")
    numbers, results = count(), []
    with tempfile.TemporaryDirectory() as folder:

        def run(*options: str) -> record.Cost:
            root = Path(folder) / str(next(numbers)) / "run"
            if options == ("by hand",):
                record.measure([ORCH, "render", recipe, "--smoke", "-o", str(root)])
                cost = record.measure(["bash", str(root / "run.sh")])
            else:
                cost = record.measure([ORCH, "run", recipe, "--smoke", "-o", str(root), *options])
            results.append(hash_results(root))
            print(f"{' '.join(options) or 'forks'}: {cost.wall_s:.1f} s, {cost.cpu_s:.1f} CPU s", file=sys.stderr)
            return cost

        if not asked.compiled:
            run("--no-warm")
        native = "by hand" if asked.by_hand else "--no-warm"
        sides = record.alternate(lambda: run(native), run, asked.times)
    assert len(results[0]) > len(COMPARED)
    equal = "weights and scores, byte for byte" if all(one == results[0] for one in results) else False
    what = f"{asked.recipe} --smoke, {'by hand' if asked.by_hand else 'each stage alone'} and forked"
    words = " ".join([asked.recipe, f"--times {asked.times}", *(["--by-hand"] if asked.by_hand else [])])
    rows = record.compare_costs(what, sides, equal=equal, wall=True)
    record.write("stages", rows, f"python benchmarks/stages.py {words}")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
