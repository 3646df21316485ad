"""A saved plan is carried out only on the files it was made for, and writes nowhere else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from surgeon.errors import SurgeonError
from surgeon.expand.plan import ExpandSettings
from surgeon.saved_plan import apply_plan, save_plan


@pytest.fixture
def model(stories: Path, tmp_path: Path) -> Path:
    shutil.copytree(stories, tmp_path / "model")
    (tmp_path / "model").chmod(0o755)
    (tmp_path / "model" / "generation_config.json").chmod(0o644)
    settings = ExpandSettings(model=str(tmp_path / "model"), out=tmp_path / "out", add=1)
    save_plan(tmp_path / "plan.json", "expand-layers", settings)
    return tmp_path / "model"


def test_a_changed_carried_file_is_refused(model: Path, tmp_path: Path) -> None:
    """generation_config.json is not part of a checkpoint's digest, and would be copied as it is now."""
    path = model / "generation_config.json"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(SurgeonError, match=r"generation_config.json is not the one"):
        apply_plan(tmp_path / "plan.json", None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["model", "model/inside", "."])
def test_the_input_is_not_replaced_even_by_force(model: Path, tmp_path: Path, out: str) -> None:
    before = sorted((p, p.stat().st_mtime_ns) for p in model.iterdir())
    with pytest.raises(SurgeonError, match="never changed"):
        apply_plan(tmp_path / "plan.json", tmp_path / out, force=True)
    assert sorted((p, p.stat().st_mtime_ns) for p in model.iterdir()) == before


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/tmp/evil"])
def test_a_plan_that_names_a_file_elsewhere_is_refused(model: Path, tmp_path: Path, name: str) -> None:
    value = json.loads((tmp_path / "plan.json").read_text())
    value["plan"]["files"] = {name: "x"}
    (tmp_path / "plan.json").write_text(json.dumps(value))
    with pytest.raises(SurgeonError, match="outside the checkpoint"):
        apply_plan(tmp_path / "plan.json", None)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "plan.json"]
