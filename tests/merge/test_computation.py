"""Models of equal shapes that compute in different ways are not merged, unless the output computes as they do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from merge_models import merged, trained

from surgeon.context.plan import ExtendContextSettings, plan_extend_context
from surgeon.errors import SurgeonError
from surgeon.merge.models import MergeModelsSettings, plan_merge_models
from surgeon.ops.execute import execute


def with_config(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny.build("llama", tmp_path / "base")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, "rope_parameters.*extend-context"),
        ({"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 4}, "num_attention_heads is 4 in"),
        ({"hidden_act": "gelu"}, "hidden_act is silu in"),
    ],
)
def test_another_computation_is_refused(base: Path, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    other = with_config(trained(base, tmp_path / "other", 1, lineage=False), **changes)
    with pytest.raises(SurgeonError, match=said):
        merged(tmp_path / "out", base, {other: 0.5})
    merged(tmp_path / "all-the-same", base, {other: 0.5}, any_base=True)
    settings = MergeModelsSettings(method="slerp", out=tmp_path / "out", models=[str(base), str(other)])
    with pytest.raises(SurgeonError, match=said):
        plan_merge_models(settings)


def test_what_does_not_matter_or_is_only_spelled_apart(base: Path, tmp_path: Path) -> None:
    other = trained(base, tmp_path / "other", 1, lineage=False)
    config = json.loads((other / "config.json").read_text())
    theta = config.pop("rope_parameters")["rope_theta"]
    (other / "config.json").write_text(json.dumps(config))
    with_config(other, rope_theta=theta, use_cache=False, attention_dropout=0.1, max_position_embeddings=256)
    merged(tmp_path / "out", base, {other: 0.5})
    plan_merge_models(MergeModelsSettings(method="slerp", out=tmp_path / "no", models=[str(base), str(other)]))


def test_the_output_may_compute_as_the_other_does(base: Path, tmp_path: Path) -> None:
    long = tmp_path / "long"
    execute(plan_extend_context(ExtendContextSettings(model=str(base), out=long, rope_base=5e5)), long)
    instruct = trained(base, tmp_path / "instruct", 1, lineage=False)
    out = merged(tmp_path / "out", base, {trained(long, tmp_path / "domain", 2): 0.5, instruct: 0.5})
    assert json.loads((out / "config.json").read_text())["rope_parameters"]["rope_theta"] == 5e5
    (long / "surgeon.json").unlink()  # then only its configuration tells
    with pytest.raises(SurgeonError, match="compute in different ways"):
        merged(tmp_path / "without", base, {trained(long, tmp_path / "again", 3, lineage=False): 0.5, instruct: 0.5})
