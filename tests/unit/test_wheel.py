"""The wheel carries its templates: installed anywhere, it renders what the checkout renders."""

from __future__ import annotations

import os
import subprocess
import sys


def test_an_installed_wheel_renders_a_recipe(tmp_path, root):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=root, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    program = (
        "import orchestrator, orchestrator.cli, sys; sys.stderr.write(orchestrator.__file__); orchestrator.cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "render", str(root / "recipes" / "qwen3_reranker.yaml"), "--smoke"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert str(target) in done.stderr
    assert "FlagEmbedding.finetune.reranker.decoder_only.base" in done.stdout
    assert (target / "orchestrator" / "backends" / "arguments" / "flagembedding.decoder_only.json").exists()
    for templates in ("orchestrator/workers/cards", "orchestrator/workers/chat/templates"):
        assert {path.name for path in (target / templates).iterdir()} == {
            path.name for path in (root / templates).iterdir()
        }
    for table in ("logs/rules.yaml", "checks/known_bugs.yaml"):
        assert (target / "orchestrator" / table).read_bytes() == (root / "orchestrator" / table).read_bytes()
    assert (target / "orchestrator" / "constraints.txt").read_bytes() == (root / "constraints.txt").read_bytes()
