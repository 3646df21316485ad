"""Slow learners: groups with rates of their own, each tensor in one of them, and none at rate 0 is trained."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import model_of

from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import BlockMap, Lineage, NewBlock, Parent, dump_lineage
from surgeon.checkpoint.reader import read, to_bytes
from surgeon.errors import SurgeonError, UsageError
from surgeon.train.run import run_cpt
from surgeon.train.settings import CptSettings
from surgeon.train.trainable import Trainable, select

Tiny = Callable[..., Path]
WORDS = ("old-blocks", "new-blocks", "role:mlp", "role:norm,embedding", "o_proj", "lm_head")


def deep(model_type: str = "llama") -> tuple[Any, Lineage]:
    """A model of three blocks, the last of them new."""
    blocks = BlockMap(source=[0, 1, 1], new=[NewBlock(block=2, source=1, fill="zero")])
    return model_of(model_type), Lineage(operation="surgery", kind="surgery", blocks=blocks)


def halved(chosen: Trainable) -> set[str]:
    return {name for name, factor in chosen.multipliers.items() if factor == 0.5}


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_old_and_new_blocks_are_named_by_the_lineage(family: str) -> None:
    model, lineage = deep(family)
    names = {n for n, _ in model.named_parameters()}
    new = halved(select(model, "full", lineage, ["new-blocks:lr=0.5"]))
    old = halved(select(model, "full", lineage, ["old-blocks:lr=0.5"]))
    assert new == {n for n in names if ".2." in n} and len(new) > 5
    assert old == {n for n in names if ".0." in n or ".1." in n}


def test_roles_are_groups() -> None:
    model, lineage = deep()
    assert halved(select(model, "full", lineage, ["role:mlp:lr=0.5"])) == {
        n for n, _ in model.named_parameters() if ".mlp." in n
    }


@given(st.lists(st.sampled_from(WORDS), unique=True, max_size=5), st.data())
@settings(max_examples=40, deadline=None)
def test_every_tensor_is_in_exactly_one_group(words: list[str], data: st.DataObject) -> None:
    model, lineage = deep()
    groups = [f"{w}:lr={data.draw(st.sampled_from(['0', '0.01', '2']))}" for w in words]
    names = {n for n, _ in model.named_parameters()}
    try:
        chosen = select(model, "full", lineage, groups)
    except SurgeonError as error:  # o_proj behind old-blocks and new-blocks
        assert "no trained tensor belongs to this group" in str(error)
        return
    held = list(itertools.chain.from_iterable(g["names"] for g in chosen.groups(1.0, 0.1)))
    assert len(held) == len({*held}) and {*held} == {*chosen.parameters}
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {*held}
    assert names - {*held} == {n for n, p in model.named_parameters() if not p.requires_grad}
    assert 0.0 not in {g["lr_scale"] for g in chosen.groups(1.0, 0.1)}


@pytest.mark.parametrize("factor", [0.01, 0.5])
def test_a_step_of_sgd_is_the_rate_times_the_factor_times_the_gradient(factor: float) -> None:
    model, lineage = deep()
    chosen = select(model, "full", lineage, [f"old-blocks:lr={factor}"])
    before = {n: p.detach().clone() for n, p in chosen.parameters.items()}
    ids = torch.arange(3, 20)[None]
    model(ids, labels=ids).loss.backward()
    optimizer = torch.optim.SGD(chosen.groups(0.125, 0.0), weight_decay=0.0)
    optimizer.step()
    for name, parameter in chosen.parameters.items():
        scale = factor if ".layers.0." in name or ".layers.1." in name else 1.0
        assert parameter.grad is not None
        expected = before[name].add(parameter.grad, alpha=-0.125 * scale)
        assert torch.equal(parameter.detach(), expected), name
        assert not torch.equal(parameter.detach(), before[name]), name


def test_a_rate_of_zero_is_frozen_and_its_bytes_stay(tiny: Tiny, corpus: Path) -> None:
    model = tiny("llama", "bfloat16")
    _, lineage = deep()
    parent = Parent(role="model", name="x", path="../x", digest="sha256:0", lineage=lineage)
    (model / "surgeon.json").write_text(dump_lineage(Lineage(operation="cpt", kind="training", parents=[parent])))
    out = corpus.parent / "out"
    run_cpt(
        CptSettings(
            model=str(model), out=str(out), data=[str(corpus)], tokens=192, seq_len=16, batch_tokens=64, lr=1e-2,
            weight_decay=0.5, group=["old-blocks:lr=0", "embed:lr=0.0", "lm_head:lr=0"], device="cpu",
        )
    )  # fmt: skip
    a, b = Checkpoint.open(model).tensors, Checkpoint.open(out).tensors
    moved = {n for n in a if to_bytes(read(a[n])) != to_bytes(read(b[n]))}
    assert moved == {n for n in a if ".layers.2." in n} | {"model.norm.weight"}


def test_below_what_is_frozen_there_is_no_graph() -> None:
    model, lineage = deep()
    chosen = select(model, "full", lineage, ["old-blocks:lr=0", "embed:lr=0"])
    assert chosen.lowest_block == 2


@pytest.mark.parametrize(
    ("groups", "has_lineage", "problem"),
    [
        (["new-blocks:lr=2"], False, "no new blocks"),
        (["old-blocks:lr=0.1"], False, "no new blocks"),
        (["role:mpl:lr=2"], True, "no trained tensor has the role"),
        (["model|head:lr=0"], True, "every trained tensor has the rate 0"),
        (["old-blocks:lr=0.1", r"layers\.0\.:lr=2"], True, "any more"),
    ],
)
def test_refusals(groups: list[str], has_lineage: bool, problem: str) -> None:
    model, lineage = deep()
    with pytest.raises(SurgeonError, match=problem) as refused:
        select(model, "full", lineage if has_lineage else None, groups)
    assert "--group" in refused.value.where


@pytest.mark.parametrize("words", ["lm_head", "role:head", "embed_tokens"])
def test_a_tied_tensor_is_found_by_each_of_its_names(words: str) -> None:
    """It is the head: an expression that names both a block and the head must not leave it out without a word."""
    model = model_of("llama", tie_word_embeddings=True)
    trainable = select(model, words, None)
    assert list(trainable.parameters) == ["model.embed_tokens.weight"] and trainable.lowest_block == 0
    if not words.startswith("role:"):
        with_block = select(model, rf"layers\.2\.|{words}", None)
        assert "model.embed_tokens.weight" in with_block.parameters and len(with_block.parameters) > 1
    slow = select(model, "full", None, [f"{words}:lr=0.5"])
    assert slow.multipliers["model.embed_tokens.weight"] == 0.5
    with pytest.raises(UsageError, match="any more"):
        select(model, "full", None, ["embed_tokens:lr=0.5", f"{words}:lr=0.1"])


def test_an_untied_head_is_itself() -> None:
    trainable = select(model_of("llama", tie_word_embeddings=False), "lm_head", None)
    assert list(trainable.parameters) == ["lm_head.weight"] and trainable.lowest_block is None


def test_what_stands_below_the_blocks_by_another_name() -> None:
    """All blocks have a graph, although none of them is trained."""
    model = model_of(
        "gemma3n_text", hidden_size_per_layer_input=8, vocab_size_per_layer_input=512, num_kv_shared_layers=1,
        laurel_rank=8, altup_num_inputs=2, activation_sparsity_pattern=[0.0] * 3,
    )  # fmt: skip
    assert select(model, "per_layer_model_projection", None).lowest_block == 0


@pytest.mark.parametrize(
    ("family", "words"), [("gpt_oss", ("bias", "norm", "sinks")), ("jamba", ("norm", "A_log", ".D"))]
)
def test_biases_and_decays_of_a_state_do_not_decay_where_they_lie_stacked(family: str, words: tuple[str, ...]) -> None:
    """Biases of experts are a matrix, and so is what a state of Mamba decays by."""
    experts = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "mamba_dt_rank": 4}
    model = model_of(family, **experts)
    groups = select(model, "full", None).groups(1.0, 0.1)
    still = {name for group in groups if group["weight_decay"] == 0 for name in group["names"]}
    assert still == {n for n, p in model.named_parameters() if p.ndim < 2 or n.endswith(("bias", "A_log"))}
    assert any(p.ndim > 1 for n, p in model.named_parameters() if n in still)
