"""What methods refuse of a model, of texts and of a length is said by --dry-run too, in the words of the run, and
before the weights are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_meta_alignment import settings

from surgeon.errors import SurgeonError
from surgeon.train import job
from surgeon.train.run import describe_cpt, run_cpt
from surgeon.train.settings import CptSettings

WAYS = (run_cpt, describe_cpt)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "coso:rank=8,sketch=8"}, "does not hold more than"),
        ({"optimizer": "adamw_bf16", "betas": (0.9, 0.999)}, "bfloat16 cannot hold"),
        ({"objective": "designed_targets:feedback={},width=10,heads=4"}, "do not share a width"),
        ({"objective": "designed_targets:feedback={},k=100000"}, "are no candidates"),
        ({"objective": "designed_targets:feedback={}", "train": "embed_tokens"}, "none of them is trained"),
        ({"objective": "load_balancing"}, "no loss that balances routers"),
        ({"meta": ["codyra"]}, "no LoRA"),
        ({"meta": ["alignment:rows=100000"], "replay": ["r={}"]}, "100000 windows of replay are wanted"),
        ({"meta": ["alignment:general={},rows=100000"]}, "100000 windows of new data are wanted"),
        ({"meta": ["value_probe:feedback={},blocks=1"], "train": "embed_tokens"}, "none of them is trained"),
        ({"schedule": "constant:warmup=1000"}, "does not fit into a run"),
        ({"checkpointing": "blocks"}, "cannot be computed again"),
        ({"regularize": ["ewc:probe=UNLEARNED"]}, "nothing to learn"),
        ({"meta": ["decoupled:probe=UNLEARNED"]}, "nothing to learn"),
    ],
)
@pytest.mark.parametrize("way", WAYS)
def test_of_the_model_and_the_texts(
    changes: dict[str, Any], message: str, way: Callable[[CptSettings], Any], tiny: Callable[..., Path], corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(job, "load_model", lambda *_, **__: pytest.fail("the weights were read"))
    if changes.get("checkpointing"):
        from transformers.modeling_layers import GradientCheckpointingLayer

        monkeypatch.delattr(GradientCheckpointingLayer, "gradient_checkpointing")
    if "UNLEARNED" in str(changes):
        from surgeon.train import probes

        real = probes.tokenise
        monkeypatch.setattr(probes, "tokenise", lambda *given: _unlearned(real(*given)))
    given = {k: _put(v, str(corpus)) for k, v in changes.items()}
    with pytest.raises(SurgeonError, match=message):
        way(settings(tiny("llama"), corpus, **given))
    assert not corpus.with_name("out.run").exists()


def _put(value: Any, corpus: str) -> Any:
    if isinstance(value, list):
        return [_put(v, corpus) for v in value]
    return value.replace("{}", corpus).replace("UNLEARNED", corpus) if isinstance(value, str) else value


def _unlearned(tokens: Any) -> Any:
    tokens.learn[:] = False
    return tokens


@pytest.mark.parametrize("way", WAYS)
def test_of_a_teacher(
    way: Callable[[CptSettings], Any], tiny: Callable[..., Path], corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "load_model", lambda *_, **__: pytest.fail("the weights were read"))
    model, narrow = tiny("llama"), tiny("llama", name="narrow", hidden_size=16)
    with pytest.raises(SurgeonError, match="hidden states have 16 elements"):
        way(settings(model, corpus, objective="hidden_distill", teacher=str(narrow)))
    fewer = tiny("llama", name="fewer", vocab_size=600)
    with pytest.raises(SurgeonError, match="the teacher gives 600 logits"):
        way(settings(model, corpus, objective="distill", teacher=str(fewer)))


@pytest.mark.parametrize("way", WAYS)
def test_of_an_encoder(
    way: Callable[[CptSettings], Any], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "load_model", lambda *_, **__: pytest.fail("the weights were read"))
    for words, message in (
        ("masked=0.8,random=0.3", "more than all"),
        ("policy=label_informative", "need texts with labels"),
        (f"entities={corpus}", "has no use for entities"),
    ):
        with pytest.raises(SurgeonError, match=message):
            way(settings(tmp_path, corpus, objective=f"masked_lm:{words}"))


def test_a_probe_is_read_once(
    tiny: Callable[..., Path], corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # what is looked at before the weights is not tokenised again behind them
    from surgeon.train import probes

    real, read = probes.tokenise, []

    def tokenise(corpus: Any, tokenizer: Any) -> Any:
        read.append(corpus.name)
        return real(corpus, tokenizer)

    monkeypatch.setattr(probes, "tokenise", tokenise)
    run_cpt(settings(tiny("llama"), corpus, regularize=[f"ewc:probe=p={corpus},tokens=64"]))
    assert read == ["p"]
