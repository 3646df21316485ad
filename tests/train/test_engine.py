"""What the engine may do for speed or memory changes nothing; groups and roles are what they say."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import model_of

from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.reader import read, to_bytes
from surgeon.errors import UsageError
from surgeon.train import blocks
from surgeon.train.describe import describe_cpt
from surgeon.train.forward import nats_of
from surgeon.train.groups import grouped
from surgeon.train.run import CptResult, run_cpt
from surgeon.train.settings import CptSettings
from surgeon.train.trainable import select

Tiny = Callable[..., Path]


def cpt(model: Path, corpus: Path, name: str, **changes: Any) -> tuple[CptResult, Path]:
    out = corpus.parent / name
    options: dict[str, Any] = {"tokens": 192, "seq_len": 16, "batch_tokens": 64, "lr": 1e-2, "device": "cpu"}
    return run_cpt(CptSettings(model=str(model), out=str(out), data=[str(corpus)], **(options | changes))), out


def changed(before: Path, after: Path) -> set[str]:
    a, b = Checkpoint.open(before).tensors, Checkpoint.open(after).tensors
    return {n for n in a if to_bytes(read(a[n])) != to_bytes(read(b[n]))}


@pytest.mark.parametrize("train", ["full", r"layers\.[12]\."])
def test_blocks_computed_again_give_the_same_bytes(tiny: Tiny, corpus: Path, train: str) -> None:
    model = tiny("llama", attention_dropout=0.1)
    kept, out = cpt(model, corpus, "kept", train=train, checkpointing="none")
    again, other = cpt(model, corpus, "again", train=train, checkpointing="blocks")
    assert kept.final_loss == again.final_loss
    assert not changed(out, other)


def test_nothing_is_computed_again_below_the_lowest_trained_block() -> None:
    model = model_of("llama").train()
    trainable = select(model, r"layers\.1\.", None)
    need = {"total": 0}
    assert blocks.checkpoint(model, trainable, "blocks", torch.device("cpu"), need)
    assert [b.gradient_checkpointing for b in blocks.blocks_of(model)] == [False, True, True]
    seen = []
    for block in blocks.blocks_of(model):
        block.register_forward_hook(lambda _m, _i, out: seen.append(out[0] if isinstance(out, tuple) else out))
    ids = torch.randint(3, 512, (1, 8))
    nats_of(model(input_ids=ids, use_cache=False).logits, ids).backward()
    assert [t.requires_grad for t in seen[:3]] == [False, True, True]


def test_on_a_cpu_nothing_is_computed_again_unasked() -> None:
    model = model_of("llama").train()
    need = {"total": 1 << 60}
    assert not blocks.checkpoint(model, select(model, "full", None), "auto", torch.device("cpu"), need)


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_blocks_learn_the_same(tiny: Tiny, corpus: Path) -> None:
    model = tiny("llama")
    plain, _ = cpt(model, corpus, "plain", compile=False)
    compiled, _ = cpt(model, corpus, "compiled", compile=True)
    assert compiled.final_loss == pytest.approx(plain.final_loss, rel=1e-4)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere another compiler is looked for")
def test_without_a_compiler_it_is_said_what_to_do(tiny: Tiny, corpus: Path, tmp_path: Path) -> None:
    model, out = tiny("llama"), tmp_path / "out"
    words = ["--data", str(corpus), "--tokens", "128", "--seq-len", "32", "--batch-tokens", "64", "--device", "cpu"]
    env = dict(os.environ) | {"CXX": "/absent/g++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    run = subprocess.run(
        [sys.executable, "-m", "surgeon", "cpt", str(model), str(out), *words, "--compile", "--quiet"],
        env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    problem, where, mend = run.stderr.splitlines()
    assert run.returncode == 1 and "cannot compile" in problem and "C++ compiler" in problem
    assert "torch.compile" in where and "--no-compile" in mend and not out.exists()


def test_a_group_has_its_own_rate_and_decay(tiny: Tiny, corpus: Path) -> None:
    model = tiny("llama")
    _, out = cpt(model, corpus, "frozen", group=[r"mlp:lr=0", r"embed_tokens|lm_head:lr=0.5,weight_decay=0"])
    assert not {n for n in changed(model, out) if ".mlp." in n}
    assert "lm_head.weight" in changed(model, out)
    named = dict(model_of("llama").named_parameters())
    trainable = select(model_of("llama"), "full", None, ["embed_tokens|lm_head:lr=0.5,weight_decay=0"])
    groups = trainable.groups(1.0, 0.1)
    assert sum(len(g["params"]) for g in groups) == len(named)
    by_name = {name: g for g in groups for name in g["names"]}
    assert (by_name["lm_head.weight"]["lr_scale"], by_name["lm_head.weight"]["weight_decay"]) == (0.5, 0.0)
    assert by_name["model.layers.0.mlp.up_proj.weight"]["weight_decay"] == 0.1


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["mlp"], "is not REGEX"),
        (["mlp:lr=-1"], "is not lr=FACTOR"),
        (["mlp:lr=1,lr=2"], "is not lr=FACTOR"),
        (["mlp:lr=nan"], "is not lr=FACTOR"),
        (["absent:lr=1"], "no trained tensor"),
        (["m:lr=1", "mlp:lr=2"], "any more"),
        (["(:lr=1"], "no regular expression"),
    ],
)
def test_groups_are_read_strictly(words: list[str], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        grouped(words, ["a.mlp.weight", "m.weight"])


def test_roles_are_trained(tiny: Tiny, corpus: Path) -> None:
    model = tiny("llama", "bfloat16")
    _, out = cpt(model, corpus, "roles", train="role:attention.q,norm")
    moved = changed(model, out)
    assert moved and all("q_proj" in n or "norm" in n for n in moved)
    assert any("q_proj" in n for n in moved)
    with pytest.raises(UsageError, match="no trained tensor has the role 'atention'"):
        cpt(model, corpus, "none", train="role:atention")


@pytest.mark.parametrize("tied", [True, False])
def test_what_full_training_costs_does_not_depend_on_what_is_trained(tied: bool, tiny: Tiny, corpus: Path) -> None:
    """The head's weights have a gradient in it, also where they are frozen in this run."""
    options: dict[str, Any] = {
        "model": str(tiny("llama", tie_word_embeddings=tied)),
        "out": "out",
        "data": [str(corpus)],
    }
    options |= {"tokens": 192, "seq_len": 16, "batch_tokens": 64}
    full, part = (describe_cpt(CptSettings(**options, train=train)) for train in ("full", "role:mlp"))
    assert part["flops_per_token_full"] == full["flops_per_token_full"] == full["flops_per_token"]
    assert part["flops_per_token"] < full["flops_per_token"]


def test_a_description_says_what_it_costs(tiny: Tiny, corpus: Path) -> None:
    found = describe_cpt(
        CptSettings(model=str(tiny("llama")), out="out", data=[str(corpus)], tokens=192, seq_len=16, batch_tokens=64)
    )
    assert found["flops_per_token"] == found["flops_per_token_full"] > 0
    assert found["memory_bytes"]["total"] == sum(v for k, v in found["memory_bytes"].items() if k != "total")
    assert found["steps"] == 3


def test_a_description_counts_what_is_computed_again(tiny: Tiny, corpus: Path) -> None:
    options: dict[str, Any] = {"model": str(tiny("llama")), "out": "out", "data": [str(corpus)], "seq_len": 16}
    kept, again = (
        describe_cpt(CptSettings(**options, tokens=64, checkpointing=how))["memory_bytes"]
        for how in ("none", "blocks")
    )
    assert again["activations"] < kept["activations"]
    assert {k: v for k, v in kept.items() if k not in ("activations", "total")}.items() <= again.items()
