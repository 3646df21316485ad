"""Whole runs of masked language modelling: encoders that train, resume and load; what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import STORY
from encoders import save_encoder
from method_runs import check_resume, cpt, same, weights

from surgeon.errors import SurgeonError
from surgeon.loading import load_model
from surgeon.train.job import prepare
from surgeon.train.loop import Loop
from surgeon.train.settings import CptSettings


def settings(model: Path, corpus: Path, **changes: Any) -> CptSettings:
    given: dict[str, Any] = {"tokens": 384, "seq_len": 48, "batch_tokens": 192, "lr": 1e-2, "device": "cpu"}
    given |= {"objective": "masked_lm", "out": str(model.parent / "out"), "model": str(model), "data": [str(corpus)]}
    return CptSettings(**(given | changes))


def test_masks_are_the_same_for_any_micro_batch(corpus: Path, tmp_path: Path) -> None:
    model = save_encoder(tmp_path / "bert")
    loops = [Loop(prepare(settings(model, corpus, micro_batch=n))) for n in (1, 3, 4)]
    for step in range(2):
        bytes_of = [[(w.ids.tobytes(), w.labels.tobytes()) for w in loop.windows(step)] for loop in loops]
        assert bytes_of[0] == bytes_of[1] == bytes_of[2]
    losses = [float(loop.run_view.loss(loop.windows(0)).detach()) for loop in loops]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_an_encoder_trains_resumes_and_loads(family: str, corpus: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM

    dropout = {"hidden_dropout_prob": 0.1} if family == "bert" else {}
    model = save_encoder(tmp_path / family, family, **dropout)
    out = check_resume(model, tmp_path, corpus, objective="masked_lm", tokens=1152, seq_len=48, batch_tokens=192)
    loaded, info = AutoModelForMaskedLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert all(bool(t.isfinite().all()) for t in loaded.state_dict().values())
    again = cpt(model, tmp_path / "b", corpus, objective="masked_lm", tokens=1152, seq_len=48, batch_tokens=192)
    assert same(out, again) and not same(out, model)


def test_the_loss_goes_down(corpus: Path, tmp_path: Path) -> None:
    model = save_encoder(tmp_path / "bert")
    words = {"objective": "masked_lm", "seq_len": 48, "batch_tokens": 192, "tokens": 192 * 120, "lr": 3e-3}
    out = cpt(model, tmp_path / "out", corpus, **words)
    from surgeon.checkpoint.sidecars import SURGEON_DIR

    lines = next((out / SURGEON_DIR).glob("metrics*")).read_text().splitlines()
    losses = [record["loss"] for record in map(json.loads, lines) if "loss" in record]
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


@pytest.mark.parametrize("policy", ["whole_word", "entity:entities", "label_informative:labelled"])
def test_every_policy_runs(policy: str, corpus: Path, tmp_path: Path) -> None:
    name, _, option = policy.partition(":")
    path = tmp_path / ("labelled.jsonl" if option == "labelled" else "names.txt")
    path.write_text(
        "".join(json.dumps({"text": t, "label": n % 2}) + "\n" for n, t in enumerate(STORY))
        if option == "labelled"
        else "Lily\nbig dog\n"
    )
    given = f"masked_lm:policy={name},least=1" + (f",{option}={path}" if option else "")
    model = save_encoder(tmp_path / "bert")
    out = cpt(model, tmp_path / "out", corpus, objective=given, seq_len=48, batch_tokens=192)
    assert not same(out, model)


def test_frozen_blocks_stay(corpus: Path, tmp_path: Path) -> None:
    model = save_encoder(tmp_path / "bert")
    out = cpt(
        model, tmp_path / "out", corpus, objective="masked_lm", train=r"layer\.2\.", seq_len=48, batch_tokens=192
    )
    before, after = weights(model), weights(out)
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    assert moved and all("layer.2." in n for n in moved)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"objective": "next_token"}, "an encoder, and next_token is no objective"),
    ({"objective": "distill"}, "an encoder, and distill is no objective"),
    ({"eval": ["{corpus}"]}, "nothing to evaluate"),
    ({"train": "role:mlp"}, "roles of an encoder"),
    ({"regularize": ["ewc:probe={corpus}"]}, "ewc reads its corpus as a causal model"),
    ({"objective": "masked_lm:masked=0.95"}, "more than all"),
    ({"objective": "masked_lm:entities={corpus}"}, "no use for entities"),
    ({"objective": "masked_lm:policy=label_informative"}, "need texts with labels"),
    ({"objective": "masked_lm:share=0"}, "not valid"),
    ({"data": ["{questions}"]}, "masks lie anywhere"),
]


@pytest.mark.parametrize(("words", "problem"), REFUSED, ids=[p for _, p in REFUSED])
def test_refusals(words: dict[str, Any], problem: str, corpus: Path, questions: Path, tmp_path: Path) -> None:
    def filled(value: Any) -> Any:
        if isinstance(value, list):
            return [filled(v) for v in value]
        return value.format(corpus=corpus, questions=questions)

    model = save_encoder(tmp_path / "bert")
    if "data" in words:  # a template, so that the records can be read at all
        config = json.loads((model / "tokenizer_config.json").read_text())
        config["chat_template"] = "{% for m in messages %}{{ m.content }} {% endfor %}"
        (model / "tokenizer_config.json").write_text(json.dumps(config))
    given = {"objective": "masked_lm", "seq_len": 48, "batch_tokens": 192} | {k: filled(v) for k, v in words.items()}
    with pytest.raises(SurgeonError, match=problem):
        from surgeon.train.run import run_cpt

        run_cpt(settings(model, corpus, **given))
    assert not (tmp_path / "out").exists()


def test_a_decoder_is_refused(tiny: Callable[..., Path], corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(SurgeonError, match="a decoder, and masked_lm is no objective"):
        cpt(tiny("llama"), tmp_path / "out", corpus, objective="masked_lm")


def test_elsewhere_an_encoder_is_refused(tmp_path: Path) -> None:
    model = save_encoder(tmp_path / "bert")
    with pytest.raises(SurgeonError, match="the model is an encoder"):
        load_model(model, device=torch.device("cpu"), dtype=torch.float32)


def test_an_encoder_under_another_name_is_not_read_as_a_causal_model(corpus: Path, tmp_path: Path) -> None:
    """BertForPreTraining: the library would make a causal model of it that sees the tokens it is asked for."""
    model = save_encoder(tmp_path / "bert")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"architectures": ["BertForPreTraining"]}))
    with pytest.raises(SurgeonError, match="sees ahead"):
        cpt(model, tmp_path / "out", corpus)


def test_positions_behind_the_padding_id_are_the_context(corpus: Path, tmp_path: Path) -> None:
    """RoBERTa's table of 64 rows holds 62 places."""
    model = save_encoder(tmp_path / "roberta", "roberta")
    with pytest.raises(SurgeonError, match="longer than the model's context of 62"):
        prepare(settings(model, corpus, seq_len=63, batch_tokens=252))
    job = prepare(settings(model, corpus, seq_len=62, batch_tokens=248))
    assert job.mode == "padded"


def test_an_adapter_on_an_encoder(corpus: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForMaskedLM

    model, adapter = save_encoder(tmp_path / "bert"), tmp_path / "adapter"
    config = LoraConfig(r=2, target_modules=["query", "value"])
    get_peft_model(AutoModelForMaskedLM.from_pretrained(model), config).save_pretrained(adapter)
    words = {"objective": "masked_lm", "train": "adapter", "seq_len": 48, "batch_tokens": 192}
    out = cpt(f"{model}+{adapter}", tmp_path / "out", corpus, **words)
    before, after = weights(adapter), weights(out)
    assert before.keys() == after.keys() and any(not torch.equal(before[n], after[n]) for n in before)
