"""A backend is one file, one folder of templates and one writer: this says which of them is missing."""

from __future__ import annotations

from orchestrator.backends import BACKENDS
from orchestrator.backends.models import BaseModel
from orchestrator.data.forms import TRAIN_FORMS
from orchestrator.machine.hardware import CPU
from orchestrator.recipe.schema import Recipe
from tests.jobs import build_imagined_job

QWEN = BaseModel("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B", None, "decoder", None)
JOBS = {
    "reranker": build_imagined_job("qwen3_reranker", QWEN, CPU),
    "embedding": build_imagined_job("qwen3_embedding_lora", QWEN, CPU),
    "sft": build_imagined_job("sft_single_gpu_test", QWEN, CPU),
}


def test_every_backend_has_its_file_its_templates_and_its_writer(root):
    assert BACKENDS
    for name, backend in BACKENDS.items():
        assert backend.name == name
        module = f"{name.replace('-', '_')}.py"
        assert (root / "orchestrator" / "backends" / module).is_file(), f"backends/{module} is missing"
        assert list((root / "templates" / name).glob("*.j2")), f"templates/{name}/ is missing"
        for task in backend.tasks:
            assert backend.data_form(JOBS[task]) in TRAIN_FORMS, f"{name} has no writer for {task}"


def test_the_recipe_knows_exactly_the_registered_backends():
    assert Recipe.model_json_schema()["properties"]["backend"]["enum"] == list(BACKENDS)


def test_every_backend_s_extra_stands_in_pyproject(root):
    text = (root / "pyproject.toml").read_text()
    for backend in BACKENDS.values():
        assert f"\n{backend.name} = [" in text
