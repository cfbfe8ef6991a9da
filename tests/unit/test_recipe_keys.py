"""Every key of a recipe has one description, and every description its key."""

from pathlib import Path

import pytest

from orchestrator.machine.tables import load_record
from orchestrator.recipe import schema

TABLE = load_record(Path(schema.__file__).with_name("keys.yaml"), dict[str, dict[str, str]])
PARTS = {
    name: part
    for name, part in vars(schema).items()
    if isinstance(part, type) and issubclass(part, schema.Part) and part is not schema.Part
}
OF_THEMSELVES = {("Recipe", "data"), ("Recipe", "evaluate"), ("Recipe", "launch"), ("Recipe", "watch")}


def test_every_key_is_described_but_for_parts_that_describe_themselves():
    bare = {(name, key) for name, part in PARTS.items() for key in part.model_fields if not part.describe_key(key)}
    assert len(PARTS) > 8
    assert bare == OF_THEMSELVES


@pytest.mark.parametrize("name", TABLE)
def test_every_description_is_of_a_key_that_the_part_itself_has(name):
    assert TABLE[name].keys() <= PARTS[name].__annotations__.keys()


def test_a_part_has_the_descriptions_of_the_part_that_it_extends():
    assert schema.Teacher.describe_key("path") == TABLE["ModelRef"]["path"]
    assert schema.Teacher.describe_key("max_length") == TABLE["Teacher"]["max_length"]
    assert schema.Teacher.describe_key("nothing") is None


def test_the_parts_of_a_recipe_are_found_by_their_keys():
    found = schema.list_parts(schema.Recipe)
    assert found[()] is schema.Recipe
    assert found["model", "prompts"] is schema.Prompts
    assert found["teacher",] is schema.Teacher
    assert ("evaluate", "guard") not in found  # its keys are names of the recipe's own
