"""A longer context in the history of a model: training goes on from it, and merges align as they did before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import LINEAGE_FILE, Lineage, Parent, dump_lineage, read_lineage
from surgeon.checkpoint.new_blocks import new_blocks
from surgeon.checkpoint.sidecars import sidecars
from surgeon.context.plan import ExtendContextSettings, plan_extend_context
from surgeon.errors import SurgeonError
from surgeon.expand.plan import ExpandSettings, plan_expand
from surgeon.inspect_model import inspect
from surgeon.merge.plan import MergeSettings, plan_merge
from surgeon.ops.execute import execute
from surgeon.train.run import run_cpt
from surgeon.train.settings import CptSettings
from surgeon.verify import verify


def longer(model: Path, out: Path, base: float = 500_000, length: int | None = 2048) -> Path:
    settings = ExtendContextSettings(model=str(model), out=out, rope_base=base, max_length=length)
    execute(plan_extend_context(settings), out)
    return out


def deeper(model: Path, out: Path, at: int = 1) -> Path:
    execute(plan_expand(ExpandSettings(model=str(model), out=out, at=[at])), out)
    return out


def tuned(model: Path, out: Path, seed: int) -> Path:
    """As a training would leave it: every tensor changed, its lineage above that of `model`."""
    generator = torch.Generator().manual_seed(seed)
    values = load_file(model / "model.safetensors")
    out.mkdir()
    changed = {n: t + 0.01 * torch.randn(t.shape, generator=generator) for n, t in sorted(values.items())}
    save_file(changed, out / "model.safetensors", {"format": "pt"})
    for name in ("config.json", *(n for n in sidecars(model))):
        (out / name).write_bytes((model / name).read_bytes())
    above = Parent(
        role="model", name=model.name, path="", digest=Checkpoint.open(model).digest, lineage=read_lineage(model)
    )
    (out / LINEAGE_FILE).write_text(dump_lineage(Lineage(operation="cpt", kind="training", parents=[above])))
    return out


def merged(base: Path, out: Path, *add: Path, **more: Any) -> dict[str, torch.Tensor]:
    execute(plan_merge(MergeSettings(base=str(base), out=out, add=[str(a) for a in add], **more)), out)
    return load_file(out / "model.safetensors")


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def test_a_merge_gives_the_same_tensors_with_the_longer_context(stories: Path, tmp_path: Path) -> None:
    instruct = tuned(stories, tmp_path / "instruct", 1)
    plain, long = (tuned(m, tmp_path / n, 2) for m, n in ((stories, "d"), (longer(stories, tmp_path / "l"), "dl")))
    one, other = merged(stories, tmp_path / "m", instruct, plain), merged(stories, tmp_path / "ml", instruct, long)
    assert same(one, other)
    assert config_of(tmp_path / "m") == config_of(stories) and config_of(tmp_path / "ml") == config_of(long)
    said = (tmp_path / "ml" / "tokenizer_config.json").read_bytes()
    assert said == (long / "tokenizer_config.json").read_bytes() and b"2048" in said
    assert verify(tmp_path / "ml", function=True)["holds"]
    # and the merge is itself a model whose context was extended since the base
    again = merged(stories, tmp_path / "again", tmp_path / "ml", tuned(stories, tmp_path / "i2", 5))
    assert config_of(tmp_path / "again")["max_position_embeddings"] == 2048 and len(again) == len(one)


@pytest.mark.parametrize("order", ["context first", "blocks first"])
def test_surgery_on_both_sides_of_it_is_the_same_surgery(stories: Path, tmp_path: Path, order: str) -> None:
    """One model deepened, another deepened and extended: the step that moves nothing does not set them apart."""
    deep = deeper(stories, tmp_path / "deep")
    if order == "context first":
        both = deeper(longer(stories, tmp_path / "long"), tmp_path / "both")
    else:
        both = longer(deep, tmp_path / "both")
    a, b, plain = (tuned(m, tmp_path / n, s) for m, n, s in ((deep, "a", 1), (both, "b", 2), (deep, "plain", 2)))
    assert list(new_blocks(Checkpoint.open(b).lineage, every=True)) == [2]
    assert same(merged(stories, tmp_path / "m", a, b), merged(stories, tmp_path / "p", a, plain))
    assert config_of(tmp_path / "m") == config_of(both)


def test_a_shallower_model_with_a_longer_context_is_refused_until_both_have_it(stories: Path, tmp_path: Path) -> None:
    deep, long = deeper(stories, tmp_path / "deep"), longer(stories, tmp_path / "long")
    a, b = tuned(deep, tmp_path / "a", 1), tuned(long, tmp_path / "b", 2)
    with pytest.raises(SurgeonError, match=r"the context of b was extended, and a, .* was not") as refused:
        merged(stories, tmp_path / "m", a, b)
    assert "surgeon extend-context" in refused.value.hint
    merged(stories, tmp_path / "m", longer(a, tmp_path / "al"), b)
    assert config_of(tmp_path / "m")["rope_parameters"]["rope_theta"] == 500_000
    other = tuned(longer(stories, tmp_path / "other", 1e6), tmp_path / "c", 3)
    with pytest.raises(SurgeonError, match="to other positions"):
        merged(stories, tmp_path / "n", b, other)


def test_an_expansion_above_it_can_be_undone(stories: Path, tmp_path: Path) -> None:
    long = longer(deeper(stories, tmp_path / "deep"), tmp_path / "long")
    out = tmp_path / "undone"
    execute(plan_expand(ExpandSettings(model=str(long), out=out, undo=True)), out)
    assert same(load_file(out / "model.safetensors"), load_file(stories / "model.safetensors"))
    assert config_of(out)["max_position_embeddings"] == 2048


def test_training_takes_the_longer_rows_and_keeps_the_history(stories: Path, tmp_path: Path) -> None:
    long, out = longer(stories, tmp_path / "long", length=1024), tmp_path / "trained"
    data = (str(stories.parent / "general.valid.jsonl"),)
    options: dict[str, Any] = {"tokens": 2048, "seq_len": 1024, "batch_tokens": 1024, "device": "cpu"}
    run_cpt(CptSettings(model=str(long), out=str(out), data=data, **options))
    lineage = Checkpoint.open(out).lineage
    assert lineage is not None and [s.operation for s in lineage.chain()] == ["cpt", "extend-context"]
    found = inspect(Checkpoint.open(out))
    assert found["context"] == {
        "length": 1024, "rope": {"all": {"rope_theta": 500_000.0, "rope_type": "default"}},
    }  # fmt: skip
    assert merged(stories, tmp_path / "m", out).keys() == load_file(out / "model.safetensors").keys()


def test_inspect_of_other_positions(stories: Path, tiny: Any) -> None:
    assert inspect(Checkpoint.open(tiny("gpt2")))["context"] == {"length": 128, "rope": None}
    kinds = inspect(Checkpoint.open(tiny("gemma3_text")))["context"]["rope"]
    assert kinds["full_attention"]["rope_theta"] == 1e6 and kinds["sliding_attention"]["rope_theta"] == 1e4
