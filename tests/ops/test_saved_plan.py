"""A saved plan is carried out only on the files it was made for, and writes nowhere else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from surgeon.errors import SurgeonError, UsageError
from surgeon.expand.plan import ExpandSettings
from surgeon.saved_plan import apply_plan, save_plan, seal
from surgeon.train.settings import CptSettings


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
    value["seal"] = seal(value)
    (tmp_path / "plan.json").write_text(json.dumps(value))
    with pytest.raises(SurgeonError, match="outside the checkpoint"):
        apply_plan(tmp_path / "plan.json", None)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "plan.json"]


@pytest.mark.parametrize(
    ("key", "value"),
    [("operation", 3), ("config", []), ("settings", {"add": 2}), ("seed", "x"), ("files", None), ("carried", {})],
)
def test_a_plan_that_was_changed_is_refused(model: Path, tmp_path: Path, key: str, value: object) -> None:
    whole = json.loads((tmp_path / "plan.json").read_text())
    whole["plan"][key] = value
    (tmp_path / "plan.json").write_text(json.dumps(whole))
    with pytest.raises(SurgeonError, match="changed after it was written"):
        apply_plan(tmp_path / "plan.json", None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [("operation", 5), ("settings", []), ("settings", {}), ("plan", []), ("plan", {}), ("seal", None)],
)
def test_a_file_of_another_form_is_no_plan(model: Path, tmp_path: Path, key: str, value: object) -> None:
    whole = json.loads((tmp_path / "plan.json").read_text()) | {key: value}
    if value is None:
        del whole[key]
    (tmp_path / "plan.json").write_text(json.dumps(whole))
    with pytest.raises(UsageError, match="not a plan of this version"):
        apply_plan(tmp_path / "plan.json", None)


def test_a_plan_may_be_told_where_its_input_is_now(model: Path, tmp_path: Path) -> None:
    model.rename(tmp_path / "moved")
    whole = json.loads((tmp_path / "plan.json").read_text())
    whole["plan"]["inputs"][0]["path"] = str(tmp_path / "moved")
    (tmp_path / "plan.json").write_text(json.dumps(whole))
    assert apply_plan(tmp_path / "plan.json", tmp_path / "elsewhere")["out"] == str(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("key", "value"), [("inputs", None), ("inputs", {}), ("settings", {"tokens": 128}), ("settings", {"lr": "x"})]
)
def test_a_changed_plan_of_a_training_is_refused(
    model: Path, tmp_path: Path, key: str, value: dict[str, object] | None
) -> None:
    (tmp_path / "text.txt").write_text("Once upon a time there was a little dog who ran. " * 20)
    settings = CptSettings(
        model=str(model), out=str(tmp_path / "out"), data=[str(tmp_path / "text.txt")], tokens=64, seq_len=32,
        batch_tokens=64,
    )  # fmt: skip
    save_plan(tmp_path / "cpt.json", "cpt", settings)
    whole = json.loads((tmp_path / "cpt.json").read_text())
    whole[key] = whole[key] | value if value else value
    (tmp_path / "cpt.json").write_text(json.dumps(whole))
    with pytest.raises(SurgeonError, match="changed after it was written"):
        apply_plan(tmp_path / "cpt.json", None)
    assert not (tmp_path / "out").exists()
