"""expand-layers --undo of models whose files other tools wrote."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file
from test_identity import expanded
from test_undo import same_files, undone

from surgeon.checkpoint.index import INDEX
from surgeon.expand.plan import ExpandSettings, plan_expand
from surgeon.ops.execute import execute
from surgeon.ops.plan import dump_plan, from_json


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("metadata", [None, {"mergekit_version": "0.1", "format": "pt", "a": "ü"}])
def test_names_and_headers_of_other_tools_come_back(
    stories: Path, tmp_path: Path, count: int, metadata: dict[str, str] | None
) -> None:
    """Shards that save_pretrained would call otherwise, and what a header says beside its tensors."""
    from safetensors.torch import save_file

    model = tmp_path / "model"
    shutil.copytree(stories, model)
    held = sorted(load_file(model / "model.safetensors").items())
    (model / "model.safetensors").unlink()
    names = [f"part{number}.safetensors" for number in range(count)]
    weight_map = {}
    for number, name in enumerate(names):
        part = dict(held[number::count])
        save_file(part, model / name, metadata=metadata)
        weight_map |= dict.fromkeys(part, name)
    total = sum(t.nbytes for _, t in held)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (model / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    deep = expanded(model, tmp_path / "deep", at=[1, 3])
    assert undone(deep, tmp_path / "out").verified["original"] is True
    same_files(model, tmp_path / "out")
    plan = plan_expand(ExpandSettings(model=str(deep), out=tmp_path / "again", undo=True))
    execute(from_json(json.loads(dump_plan(plan))), tmp_path / "again")  # a saved plan says it too
    same_files(model, tmp_path / "again")
