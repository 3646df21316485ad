"""average and interpolate: new blocks on the line between their neighbours, to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_identity import expanded, load_model

from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError, UsageError
from surgeon.expand.fill import Gap, gaps
from surgeon.expand.layout import lay_out_blocks

Tiny = Callable[..., Path]


def block(folder: Path, number: int) -> dict[str, torch.Tensor]:
    """The tensors of a block by their names inside it."""
    start = f"model.layers.{number}."
    held = load_file(folder / "model.safetensors")
    return {n.removeprefix(start): t for n, t in held.items() if n.startswith(start)}


def test_gaps_count_the_new_blocks_between_old_ones() -> None:
    placed = lay_out_blocks(4, [1, 1, 3], "interleave")
    assert gaps(placed) == {2: Gap(1, 2, 1, 2), 3: Gap(1, 2, 2, 2), 6: Gap(3, None, 1, 1)}
    run = lay_out_blocks(4, [1, 2], "block")  # 0 1 2 1' 2' 3
    assert gaps(run) == {3: Gap(2, 3, 1, 2), 4: Gap(2, 3, 2, 2)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llama_bias", "gemma2", "qwen3"])
def test_average_is_the_mean_of_the_neighbours(tiny: Tiny, tmp_path: Path, family: str, dtype: str) -> None:
    model = tiny(family, dtype)
    out = expanded(model, tmp_path / "out", at=[1], fill="average")
    before, behind, new = block(model, 1), block(model, 2), block(out, 2)
    assert set(new) == set(before)
    for name, value in new.items():
        mean = (before[name].double() + behind[name].double()) / 2
        assert torch.equal(value, mean.to(value.dtype)), name
    assert torch.equal(block(out, 3)["mlp.up_proj.weight"], behind["mlp.up_proj.weight"])
    load_model(out, dtype)


def test_interpolate_spreads_its_blocks_evenly(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("llama")
    out = expanded(model, tmp_path / "out", at=[1, 1, 1], fill="interpolate")
    before, behind = block(model, 1), block(model, 2)
    for place, t in ((2, 0.25), (3, 0.5), (4, 0.75)):
        for name, value in block(out, place).items():
            wanted = (1 - t) * before[name].double() + t * behind[name].double()
            assert torch.equal(value, wanted.float()), name


@pytest.mark.parametrize("t", [0.0, 1.0])
def test_the_ends_of_the_line_are_the_neighbours(tiny: Tiny, tmp_path: Path, t: float) -> None:
    model = tiny("llama")
    out = expanded(model, tmp_path / "out", at=[1], fill="interpolate", option_fill={"t": t})
    new, end = block(out, 2), block(model, 1 + int(t))
    assert all(torch.equal(value, end[name]) for name, value in new.items())


def test_the_lineage_holds_what_a_new_block_was_made_of(tiny: Tiny, tmp_path: Path) -> None:
    out = expanded(tiny("llama"), tmp_path / "out", at=[1], fill="average")
    lineage = Checkpoint.open(out).lineage
    assert lineage is not None
    source = lineage.initial["model.layers.2.mlp.up_proj.weight"]
    inputs = [{"copy": ["model", f"model.layers.{b}.mlp.up_proj.weight"]} for b in (1, 2)]
    assert source == {"apply": "kernel:interpolate", "inputs": inputs, "options": {"t": 0.5}}


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"at": [3], "fill": "average"}, SurgeonError, "nothing follows block 3"),
        ({"at": [1, 2], "layout": "block", "fill": "interpolate"}, UsageError, "puts the copy of block 1 behind 2"),
        ({"at": [1], "fill": "interpolate", "option_fill": {"t": 1.5}}, UsageError, "not between the two blocks"),
    ],
)
def test_where_nothing_lies_between_it_is_refused(
    tiny: Tiny, tmp_path: Path, options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        expanded(tiny("llama"), tmp_path / "out", **options)


def test_neighbours_of_two_kinds_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    """Block 1 of this model is dense, its neighbours have experts."""
    with pytest.raises(SurgeonError, match="blocks 1 and 2 differ in mlp"):
        expanded(tiny("qwen3_moe"), tmp_path / "out", at=[1], fill="average")
    expanded(tiny("qwen3_moe"), tmp_path / "out", at=[2], fill="average")
