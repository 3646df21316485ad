"""What is told of a method is what its function says."""

from __future__ import annotations

import inspect
import json

import pytest
from run_cli import surgeon

from surgeon import registry


@pytest.mark.parametrize(
    ("kind", "name"), [("merge", "dare_linear"), ("meta", "nexus"), ("merge", "mergekit:ties"), ("fill", "zero")]
)
def test_one_method_with_all_that_is_said_of_it(kind: str, name: str) -> None:
    method = registry.get(kind, name)
    done = surgeon("methods", kind, name)
    assert done.code == 0 and done.out.startswith(f"{kind} {name}\n")
    documentation = inspect.getdoc(method.function) or method.summary
    assert documentation in done.out and len(documentation) > 40
    assert all(f"  {option}=" in done.out for option in method.options)
    told = json.loads(surgeon("methods", kind, name, "--json").out)
    assert told["documentation"] == documentation and told["options"].keys() == method.options.keys()
    listed = next(m for m in json.loads(surgeon("methods", kind, "--json").out)["methods"] if m["name"] == name)
    assert listed == {key: value for key, value in told.items() if key != "documentation"}


def test_types_are_told_as_a_person_writes_them() -> None:
    told = json.loads(surgeon("methods", "merge", "dare_linear", "--json").out)
    assert told["options"]["rescale"] == {"type": "density | l1 | none", "required": False, "default": "density"}


def test_a_table_shows_square_brackets_as_they_are() -> None:
    listed = json.loads(surgeon("methods", "init", "--json").out)["methods"]
    summary = next(m["summary"] for m in listed if m["name"] == "cw2v_dense")
    assert "A1 [new, rank]" in summary
    assert "[new," in surgeon("methods", "init").out
