"""The plan of an expansion: bytes of the copies, lineage, fills, options."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydantic
import pytest
import torch
from safetensors.torch import load_file, save_file

from surgeon.arch.family import family_of
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import NewBlock
from surgeon.errors import SurgeonError, UsageError
from surgeon.expand.fill import Filled, copies
from surgeon.expand.plan import ExpandSettings, plan_expand
from surgeon.ops.execute import execute
from surgeon.ops.plan import Apply, Copy, Zeros, dump_plan, from_json, source_from_json

Tiny = Callable[..., Path]


def settings(model: Path, out: Path, **options: Any) -> ExpandSettings:
    return ExpandSettings(model=str(model), out=out, **options)


def raw(folder: Path) -> dict[str, bytes]:
    """Every tensor's bytes, by name, from all shards."""
    found = {}
    for shard in sorted(folder.glob("*.safetensors")):
        found |= {n: t.contiguous().view(torch.uint8).numpy().tobytes() for n, t in load_file(shard).items()}
    return found


@pytest.mark.parametrize("family", ["llama_bias", "gemma2", "mixtral", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("fill", ["auto", "copy"])
def test_tensors_equal_their_sources_byte_for_byte(tiny: Tiny, tmp_path: Path, family: str, fill: str) -> None:
    model, out = tiny(family), tmp_path / "out"
    plan = plan_expand(settings(model, out, at=[1, 2], fill=fill))
    execute(plan, out, threads=2)
    before, after = raw(model), raw(out)
    old, new = family_of(Checkpoint.open(model)), family_of(Checkpoint.open(out))
    lineage = Checkpoint.open(out).lineage
    assert lineage is not None and lineage.blocks is not None
    source, added = lineage.blocks.source, {entry.block for entry in lineage.blocks.new}
    assert source == [0, 1, 1, 2, 2, 3, *range(4, old.depth)] and added == {2, 4}
    compared = 0
    for name in after:
        block = new.unit(name).block
        origin = name if block is None else old.rename(name, source[block])
        if name in lineage.initial:
            assert block in added
            silenced = source_from_json(lineage.initial[name])
            assert silenced == Zeros() or silenced == Apply("kernel:constant", options={"value": -1.0})
        else:
            assert after[name] == before[origin], name
            compared += 1
    assert compared == len(after) - len(lineage.initial)
    assert bool(lineage.initial) == (fill == "auto")
    assert set(before) <= set(after) and set(new.parts(2)) == set(old.parts(1))


def test_zero_names_every_writer_with_its_bias(tiny: Tiny, tmp_path: Path) -> None:
    plan = plan_expand(settings(tiny("llama_bias"), tmp_path / "out", at=[1]))
    zero = [t.name for t in plan.tensors if t.source == Zeros()]
    assert zero == [
        f"model.layers.2.{part}.{leaf}"
        for part in ("mlp.down_proj", "self_attn.o_proj")
        for leaf in ("bias", "weight")
    ]
    plan = plan_expand(settings(tiny("mixtral"), tmp_path / "out", at=[0]))
    zero = [t.name for t in plan.tensors if t.source == Zeros()]
    assert zero == [f"model.layers.1.block_sparse_moe.experts.{n}.w2.weight" for n in range(3)] + [
        "model.layers.1.self_attn.o_proj.weight"
    ]


def test_norm_gain_records_the_multipliers_of_the_gains(tiny: Tiny, tmp_path: Path) -> None:
    gains = ("post_attention_layernorm", "post_feedforward_layernorm")
    plan = plan_expand(settings(tiny("gemma2"), tmp_path / "a", at=[1]))
    assert plan.lineage.blocks is not None
    assert plan.lineage.blocks.new == [
        NewBlock(block=2, source=1, fill="auto", lr_multipliers=dict.fromkeys(gains, 10.0))
    ]
    changed = [(t.name, t.source) for t in plan.tensors if not isinstance(t.source, Copy)]
    minus_one = Apply("kernel:constant", options={"value": -1.0})
    assert changed == [(f"model.layers.2.{part}.weight", minus_one) for part in gains]
    olmo = plan_expand(
        settings(tiny("olmo2"), tmp_path / "b", at=[1], fill="norm_gain", option_fill={"lr_multiplier": "3"})
    )
    assert olmo.lineage.blocks is not None
    assert olmo.lineage.blocks.new[0].lr_multipliers == dict.fromkeys(gains, 3.0)
    assert {t.name for t in olmo.tensors if t.source == Zeros()} == {f"model.layers.2.{part}.weight" for part in gains}


@pytest.mark.parametrize("rate", ["-1", "nan", "inf"])
def test_norm_gain_refuses_a_multiplier_that_is_no_rate(tiny: Tiny, tmp_path: Path, rate: str) -> None:
    with pytest.raises(UsageError, match="lr_multiplier"):
        plan_expand(
            settings(tiny("olmo2"), tmp_path / "out", at=[1], fill="norm_gain", option_fill={"lr_multiplier": rate})
        )


def test_norm_gain_is_refused_without_post_norms(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="norms behind the branches"):
        plan_expand(settings(tiny("llama"), tmp_path / "out", add=1, fill="norm_gain"))


def test_solar_on_a_32_block_model(tiny: Tiny, tmp_path: Path) -> None:
    model, out = tiny("llama", num_hidden_layers=32), tmp_path / "out"
    options = {"start": "8", "stop": "24"}  # as they come from the command line
    plan = plan_expand(settings(model, out, select="range", option=options, layout="block", fill="copy"))
    assert plan.lineage.blocks is not None
    assert plan.lineage.blocks.source == [*range(24), *range(8, 32)] and plan.config["num_hidden_layers"] == 48
    sources = {t.name: t.source for t in plan.tensors}
    for block, origin in enumerate([*range(24), *range(8, 32)]):
        name = "mlp.up_proj.weight"
        assert sources[f"model.layers.{block}.{name}"] == Copy("model", f"model.layers.{origin}.{name}")


def test_a_plan_is_data_and_gives_the_same_bytes_for_any_threads_and_shards(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("gemma3_text")
    plan = plan_expand(settings(model, tmp_path / "a", add=2))
    again = from_json(json.loads(dump_plan(plan)))
    assert again.digest == plan.digest == plan_expand(settings(model, tmp_path / "b", add=2)).digest
    execute(plan, tmp_path / "a", threads=1)
    execute(again, tmp_path / "b", threads=4)
    for name in ("model.safetensors", "config.json", "surgeon.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    sharded = plan_expand(settings(model, tmp_path / "c", add=2, shard_bytes=50_000))
    execute(sharded, tmp_path / "c", threads=2)
    assert len(list((tmp_path / "c").glob("*.safetensors"))) > 2
    assert raw(tmp_path / "c") == raw(tmp_path / "a")
    deeper = plan_expand(settings(tmp_path / "c", tmp_path / "d", add=1))  # and shards are read again
    assert len(deeper.tensors) > len(sharded.tensors)


def test_lineage_of_a_second_expansion_keeps_the_first(stories: Path, tmp_path: Path) -> None:
    once, twice = tmp_path / "once", tmp_path / "twice"
    execute(plan_expand(settings(stories, once, at=[1])), once)
    execute(plan_expand(settings(once, twice, at=[2])), twice)
    lineage = Checkpoint.open(twice).lineage
    assert lineage is not None and lineage.kind == "surgery" and lineage.blocks is not None
    assert lineage.blocks.source == [0, 1, 2, 2, 3, 4, 5]
    parent = lineage.parents[0]
    assert parent.digest == Checkpoint.open(once).digest and parent.path == "../once"
    assert parent.lineage == Checkpoint.open(once).lineage
    assert (twice / "tokenizer.json").read_bytes() == (stories / "tokenizer.json").read_bytes()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "needs the number of blocks"),
        ({"at": [1], "select": "uniform"}, "contradict"),
        ({"at": [9]}, "no block 9"),
        ({"add": 2, "at": [1]}, "contradict"),
        ({"add": 1, "probe": "x.txt"}, "does not probe"),
        ({"add": 1, "fill": "zeros"}, "no fill 'zeros'"),
        ({"add": 1, "option_fill": {"scale": 1}}, "no option 'scale'"),
        ({"add": 1, "option": {"scale": 1}}, "no option 'scale'"),
    ],
)
def test_wrong_words_are_usage_errors(tiny: Tiny, tmp_path: Path, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem) as caught:
        plan_expand(settings(tiny("llama"), tmp_path / "out", **options))
    assert caught.value.code == 2


@pytest.mark.parametrize("options", [{"add": 0}, {"add": -1}, {"layers": 3}, {"layout": "stack"}, {"shard_bytes": 0}])
def test_settings_are_strict(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        settings(tmp_path, tmp_path / "out", **options)


def test_a_scaled_gpt2_is_refused_and_leaves_nothing(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(SurgeonError, match="number"):
        plan_expand(settings(tiny("gpt2", scale_attn_by_inverse_layer_idx=True), tmp_path / "out", add=1))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("family", ["llama", "starcoder2", "afmoe"])
@pytest.mark.parametrize("cut", [False, True])
def test_a_wrong_tensor_is_named_as_it_is_in_the_input(tiny: Tiny, tmp_path: Path, family: str, cut: bool) -> None:
    """Block 2 of the input would be block 3 of the output, and the input has an intact block 3 as well."""
    model = shutil.copytree(tiny(family), tmp_path / "m")
    held = load_file(model / "model.safetensors")
    name = next(n for n in held if n.startswith("model.layers.2.") and n.endswith(("gate_proj.weight", "c_fc.weight")))
    whole = held.pop(name)
    save_file(held | ({name: whole[:-1].contiguous()} if cut else {}), model / "model.safetensors", {"format": "pt"})
    with pytest.raises(SurgeonError) as caught:
        plan_expand(settings(model, tmp_path / "out", at=[1]))
    said = str(caught.value)
    assert "model.layers.2." in said or "block 2 of its class" in said
    assert "layers.3." not in said and str(model) in caught.value.where


def test_a_model_with_an_adapter_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="adapter"):
        plan_expand(ExpandSettings(model=f"{tiny('llama')}+{tmp_path}", out=tmp_path / "out", add=1))


def odd(depth: int, *, first: int = 1) -> list[int]:
    """A selector of one's own: every second block."""
    return list(range(first, depth, 2))


def doubled(family: Any, block: int) -> Filled:
    """A fill of one's own that forgets a tensor."""
    sources = copies(family, block)
    sources.popitem()
    return Filled(sources)


def beyond(depth: int) -> list[int]:
    return [depth]


def test_methods_of_ones_own_by_module_and_function(tiny: Tiny, tmp_path: Path) -> None:
    plan = plan_expand(settings(tiny("llama"), tmp_path / "out", select=f"{__name__}:odd", option={"first": "0"}))
    assert plan.lineage.blocks is not None and plan.lineage.blocks.source == [0, 0, 1, 2, 2, 3]
    with pytest.raises(SurgeonError, match="one source for every tensor"):
        plan_expand(settings(tiny("llama"), tmp_path / "out", add=1, fill=f"{__name__}:doubled"))
    with pytest.raises(SurgeonError, match="chose"):
        plan_expand(settings(tiny("llama"), tmp_path / "out", select=f"{__name__}:beyond"))


def test_more_blocks_than_make_sense_are_refused(stories: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="more than 8 times the 5"):
        plan_expand(settings(stories, tmp_path / "out", add=36))
    plan = plan_expand(settings(stories, tmp_path / "out", add=35))
    assert plan.config["num_hidden_layers"] == 40


def test_an_extended_model_is_expanded_too(stories: Path, tmp_path: Path) -> None:
    """Vocabulary first, then depth: the same logits as before the expansion."""
    from surgeon.verify import verify
    from surgeon.vocab.plan import plan_extend_vocab
    from surgeon.vocab.settings import ExtendVocabSettings

    (tmp_path / "tokens.txt").write_text("hippopotamus\n")
    wide = tmp_path / "wide"
    execute(plan_extend_vocab(ExtendVocabSettings(model=str(stories), out=wide, tokens=tmp_path / "tokens.txt")), wide)
    execute(plan_expand(settings(wide, tmp_path / "out", add=2)), tmp_path / "out")
    report = verify(tmp_path / "out", function=True, data=[str(stories.parent / "domain.valid.jsonl")])
    assert report["holds"], report
