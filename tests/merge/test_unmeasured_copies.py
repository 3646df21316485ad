"""What a merge copies from a model it does not measure, and says so beside the norms of what it measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from merge_models import expanded, tensors, trained
from run_cli import surgeon
from safetensors.torch import save_file


@pytest.fixture
def models(stories: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A tuned model, and a deepened one of which the new block alone was trained."""
    instruct = trained(stories, tmp_path / "instruct", 1)
    deep = expanded(stories, tmp_path / "deep", [1])
    domain = trained(deep, tmp_path / "domain", 2)
    held, before = tensors(domain), tensors(deep)
    mine = {name: value if name.startswith("model.layers.2.") else before[name] for name, value in held.items()}
    save_file(mine, domain / "model.safetensors", metadata={"format": "pt"})
    return instruct, domain


def test_copies_are_counted_and_told(stories: Path, models: tuple[Path, Path], tmp_path: Path) -> None:
    words = ["merge-task-vectors", str(stories)]
    added = [word for model in models for word in ("--add", str(model))]
    done = surgeon(*words, str(tmp_path / "out"), *added, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)["vectors"]
    own = sum(name.startswith("model.layers.2.") for name in tensors(models[1]))
    assert found["models"] == ["domain", "instruct"] and found["copied"] == [own, 0]
    assert found["total"]["norms"][0] == 0  # of the tensors that were combined
    shown = surgeon(*words, str(tmp_path / "again"), *added)
    assert f"domain: |delta|/|base| 0 without {own} tensors that are copied from it, unmeasured" in shown.out
    weighed = surgeon(
        *words, str(tmp_path / "weighed"), "--add", str(models[0]), "--add", f"{models[1]}=0.5", "--json"
    )
    found = json.loads(weighed.out)["vectors"]
    assert found["copied"] == [0, 0] and min(found["total"]["norms"]) > 0
