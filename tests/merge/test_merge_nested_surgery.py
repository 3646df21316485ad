"""theta at initialisation is rebuilt through any chain of surgery: it equals what the surgery wrote, byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from merge_models import expanded, extended, logits, merged, same_tensors, tensors, trained

from surgeon.checkpoint.index import Checkpoint
from surgeon.merge.plan import MergeSettings, plan_merge

# steps of surgery, applied in this order
CHAINS: dict[str, list[tuple[str, object]]] = {
    "extend": [("extend", 5)],
    "extend-stored": [("stored", 5)],
    "expand-extend": [("expand", [1, 3]), ("extend", 5)],
    "extend-expand": [("extend", 5), ("expand", [0])],
    "expand-expand": [("expand", [1]), ("expand", [2, 4])],
    "extend-extend": [("extend", 5), ("extend", 4)],
    "mixed": [("average", [1]), ("interpolate", [1, 1, 2])],
    "all": [("expand", [1]), ("extend", 5), ("expand", [0, 2]), ("stored", 3), ("extend", 2)],
}


def operated(model: Path, root: Path, steps: list[tuple[str, object]], train: bool) -> Path:
    """The surgery one after the other, with training between the steps where asked."""
    for number, (kind, what) in enumerate(steps):
        if kind in ("expand", "average", "interpolate"):
            fill = "auto" if kind == "expand" else kind
            model = expanded(model, root / f"step{number}", list(what), fill)  # type: ignore[call-overload]
        else:
            init = "stored" if kind == "stored" else "combine"
            model = extended(model, root / f"step{number}", int(what), number, init)  # type: ignore[call-overload]
        if train:
            model = trained(model, root / f"trained{number}", 100 + number)
    return model


@pytest.mark.parametrize(
    ("family", "chain"),
    [
        *(("llama", chain) for chain in CHAINS),
        ("gemma2", "expand-expand"),
        ("gemma2", "all"),
        ("gpt2", "expand-extend"),
    ],
)
def test_weights_zero_rebuild_what_the_surgery_made(family: str, chain: str, tmp_path: Path) -> None:
    dtype = "bfloat16" if chain == "all" else "float32"
    base = tiny.build(family, tmp_path / "base", dtype=dtype)
    target = operated(base, tmp_path, CHAINS[chain], train=False)
    domain = trained(target, tmp_path / "domain", 7)
    assert same_tensors(merged(tmp_path / "zero", base, {domain: 0.0}), target)
    assert same_tensors(merged(tmp_path / "one", base, {domain: 1.0}), domain)
    # an untrained model has no delta, whatever its weight
    assert same_tensors(merged(tmp_path / "half", base, {target: 0.5}), target)
    assert same_tensors(merged(tmp_path / "twice", base, {target: 2.0}), target)


@pytest.mark.parametrize("chain", ["expand-extend", "all"])
def test_the_instruction_vector_reaches_a_model_operated_on_and_trained_between(chain: str, tmp_path: Path) -> None:
    base = tiny.build("llama", tmp_path / "base")
    instruct = trained(base, tmp_path / "instruct", 1, lineage=False)
    domain = operated(base, tmp_path, CHAINS[chain], train=True)
    untrained = operated(base, tmp_path / "plain", CHAINS[chain], train=False) if chain == "expand-extend" else None
    out = tensors(merged(tmp_path / "out", base, {instruct: 0.5, domain: 0.8}))
    b, i, d = tensors(base), tensors(instruct), tensors(domain)
    name = "model.embed_tokens.weight"
    old = b[name].double() + 0.8 * (d[name][:97].double() - b[name].double())
    old += 0.5 * (i[name].double() - b[name].double())
    torch.testing.assert_close(out[name][:97], old.float(), rtol=0, atol=1e-7)
    if untrained is not None:
        # new rows are relative to their values over the base, and the instruct model has none of them
        at_first = tensors(untrained)[name][97:].double()
        new = at_first + 0.8 * (d[name][97:].double() - at_first)
        torch.testing.assert_close(out[name][97:], new.float(), rtol=0, atol=1e-7)


def test_instruct_on_an_untrained_chain_is_instruct(tmp_path: Path) -> None:
    base = tiny.build("gemma2", tmp_path / "base")
    instruct = trained(base, tmp_path / "instruct", 1, lineage=False)
    target = operated(base, tmp_path, CHAINS["expand-extend"], train=False)
    out = merged(tmp_path / "out", base, {instruct: 1.0, target: 0.6})
    assert torch.equal(logits(out)[..., :97], logits(instruct))


def test_new_rows_zero_keeps_them_at_their_first_value(tmp_path: Path) -> None:
    base = tiny.build("llama", tmp_path / "base")
    target = operated(base, tmp_path, CHAINS["expand-extend"], train=False)
    domain = trained(target, tmp_path / "domain", 3)
    out = tensors(merged(tmp_path / "out", base, {domain: 1.0}, new_rows="zero"))
    held, first = tensors(domain), tensors(target)
    for name, tensor in out.items():
        if tensor.shape[0] == 102:
            assert torch.equal(tensor[:97], held[name][:97]) and torch.equal(tensor[97:], first[name][97:])
        else:
            assert torch.equal(tensor, held[name])


def test_a_model_between_base_and_target_meets_it(tmp_path: Path) -> None:
    base = tiny.build("llama", tmp_path / "base")
    wide = extended(base, tmp_path / "wide", 5, 0)
    middle = trained(wide, tmp_path / "middle", 1)
    deep = expanded(wide, tmp_path / "deep", [1])
    domain = trained(deep, tmp_path / "domain", 2)
    assert torch.equal(logits(merged(tmp_path / "out", base, {middle: 1.0, domain: 0.0})), logits(middle))
    out = tensors(merged(tmp_path / "both", base, {middle: 1.0, domain: 1.0}))
    name = "model.embed_tokens.weight"
    w, m, d = (tensors(x)[name].double() for x in (wide, middle, domain))
    torch.testing.assert_close(out[name], (d + m - w).float(), rtol=0, atol=1e-7)


def test_tables_go_along_and_the_merged_model_can_be_merged_again(tmp_path: Path) -> None:
    base = tiny.build("llama", tmp_path / "base")
    wide = extended(base, tmp_path / "wide", 5, 0)
    domain = trained(wide, tmp_path / "domain", 1)
    once = merged(tmp_path / "once", base, {domain: 0.5})
    assert (once / "surgeon" / "rows-0.safetensors").read_bytes() == (
        wide / "surgeon" / "rows-0.safetensors"
    ).read_bytes()
    again = merged(tmp_path / "again", base, {once: 0.0})
    assert same_tensors(again, wide)
    plan = plan_merge(MergeSettings(base=str(base), out=tmp_path / "x", add=[f"{once}=0.5"]))
    assert list(plan.attachments) == ["rows-0.safetensors"]
    assert Checkpoint.open(once).lineage is not None


def test_a_mixed_block_gets_the_mixture_of_its_sources_deltas(tmp_path: Path) -> None:
    base = tiny.build("llama", tmp_path / "base")
    instruct = trained(base, tmp_path / "instruct", 1, lineage=False)
    deep = expanded(base, tmp_path / "deep", [1], "interpolate")
    out = tensors(merged(tmp_path / "out", base, {instruct: 1.0, deep: 0.0}, new_blocks="source"))
    held, b, i = tensors(deep), tensors(base), tensors(instruct)
    for part in ("mlp.down_proj", "self_attn.q_proj", "input_layernorm"):
        new, first, second = (f"model.layers.{n}.{part}.weight" for n in (2, 1, 2))
        delta = ((i[first].double() - b[first].double()) + (i[second].double() - b[second].double())) / 2
        torch.testing.assert_close(out[new], (held[new].double() + delta).float(), rtol=2**-23, atol=1e-7)
    none = tensors(merged(tmp_path / "none", base, {instruct: 1.0, deep: 0.0}))
    assert torch.equal(none["model.layers.2.mlp.down_proj.weight"], held["model.layers.2.mlp.down_proj.weight"])
