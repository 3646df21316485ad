"""What lies in an exported folder: the trainer's YAML, data, notes; and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from export_rules import AXOLOTL_FIELDS, LLAMAFACTORY_FIELDS, axolotl_packs

from surgeon.data.pack import IGNORED
from surgeon.errors import SurgeonError
from surgeon.train.corpora import read
from surgeon.train.export_run import describe_export, run_export
from surgeon.train.export_settings import ExportSettings
from surgeon.train.exporters import _trainer
from surgeon.train.settings import CptSettings

Tiny = Callable[..., Path]


def settings(model: Path, corpus: Path, to: str, **changes: Any) -> ExportSettings:
    options: dict[str, Any] = {
        "tokens": 640,
        "seq_len": 16,
        "batch_tokens": 64,
        "out": str(corpus.parent / f"for-{to}"),
    }
    return ExportSettings(**({"model": str(model), "data": [str(corpus)], "to": to} | options | changes))


def written(chosen: ExportSettings) -> tuple[dict[str, Any], dict[str, Any]]:
    """The YAML and the command's JSON."""
    result = run_export(chosen).to_json()
    return yaml.safe_load((Path(chosen.out) / f"{chosen.to}.yaml").read_text()), result


@pytest.mark.parametrize(("to", "fields"), [("axolotl", AXOLOTL_FIELDS), ("llamafactory", LLAMAFACTORY_FIELDS)])
def test_the_run_in_the_trainers_words(tiny: Tiny, corpus: Path, to: str, fields: dict[str, str]) -> None:
    import dataclasses

    from transformers import TrainingArguments

    options: dict[str, Any] = {
        "lr": 2e-5, "weight_decay": 0.3, "betas": (0.8, 0.9), "clip": 0.0, "seed": 7, "save_every": 3,
        "keep_checkpoints": 2, "option": {"eps": 1e-7, "warmup": 2}, "ranks": 2, "replay": [f"old={corpus}"],
        "trust_remote_code": True, "micro_batch": 1,
    }  # fmt: skip
    model = tiny("llama")
    config, result = written(settings(model, corpus, to, **options))
    assert config.keys() <= fields.keys()
    known = {f.name for f in dataclasses.fields(TrainingArguments)}
    assert {name for name, origin in fields.items() if origin == "transformers"} <= known
    expected = {
        "max_steps": 10, "learning_rate": 2e-5, "weight_decay": 0.3, "adam_beta1": 0.8, "adam_beta2": 0.9,
        "adam_epsilon": 1e-7, "max_grad_norm": 0.0, "seed": 7, "save_steps": 3, "save_total_limit": 2, "bf16": True,
        "warmup_steps": 2, "lr_scheduler_kwargs": {"min_lr_rate": 0.1}, "gradient_accumulation_steps": 2,
        "trust_remote_code": True,
    }  # fmt: skip
    assert expected.items() <= config.items()
    batch, length, scheduler, base = (
        ("micro_batch_size", "sequence_len", "lr_scheduler", "base_model")
        if to == "axolotl"
        else ("per_device_train_batch_size", "cutoff_len", "lr_scheduler_type", "model_name_or_path")
    )
    assert (config[batch], config[length], config[scheduler]) == (1, 16, "cosine_with_min_lr")
    assert config[base] == str(model)
    assert (result["steps"], result["tokens"]) == (10, 640)
    out = corpus.parent / f"for-{to}"
    assert sorted(p.name for p in out.iterdir()) == sorted(result["files"])
    assert all(f"- {note}" in (out / "NOTES.md").read_text() for note in result["notes"])
    assert any("2 data-parallel ranks" in note for note in result["notes"])


@pytest.mark.parametrize("loss_on", ["response", "all"])
def test_axolotl_may_leave_out_rows_with_nothing_to_learn(tiny: Tiny, questions: Path, loss_on: str) -> None:
    chosen = settings(tiny("llama"), questions, "axolotl", loss_on=loss_on)
    _, result = written(chosen)
    rows = [json.loads(line) for line in (Path(chosen.out) / "rows.jsonl").read_text().splitlines()]
    silent = any(len(r["labels"]) > 1 and set(r["labels"]) == {IGNORED} for r in rows)
    assert silent is any("nothing is learned" in note for note in result["notes"]) is (loss_on == "response")


@pytest.mark.parametrize(
    "more",
    [{}, {"replay_mode": "additive"}, {"mixture": ["0.5:new=1,old=1", "1:new=1,old=0"], "replay_ratio": None}],
    ids=["shares", "additive", "stages"],
)
def test_axolotl_packs_the_rows_into_our_windows(
    tiny: Tiny, corpus: Path, questions: Path, more: dict[str, Any]
) -> None:
    """Tokens, order, shares and labels, window by window; but for the token behind a cut, which it cannot learn."""
    from surgeon.loading import load_tokenizer
    from surgeon.train.shape import Shape

    model = tiny("llama")
    options: dict[str, Any] = {"replay": [f"old={corpus}"], "replay_ratio": 0.25, "data": [f"new={corpus}"]} | more
    chosen = settings(model, corpus, "axolotl", **{k: v for k, v in options.items() if v is not None})
    config, result = written(chosen)
    rows = [json.loads(line) for line in (Path(chosen.out) / "rows.jsonl").read_text().splitlines()]
    assert all(
        r.keys() == {"input_ids", "attention_mask", "labels"} for r in rows
    )  # docs/dataset-formats/tokenized.qmd
    assert all(len(r["input_ids"]) == len(r["labels"]) == sum(r["attention_mask"]) for r in rows)
    bins = axolotl_packs([len(r["input_ids"]) for r in rows], 16)
    steps = config["max_steps"]
    data = read(chosen, load_tokenizer(model), Shape(16, 4, 4, steps), 512)
    windows = [w for step in range(steps) for w in data.mixture.batch(step)]
    assert len(bins) == len(windows) == config["max_steps"] * 4
    for numbers, window in zip(bins, windows, strict=True):
        assert [i for n in numbers for i in rows[n]["input_ids"]] == window.ids.tolist()
        shifted = np.asarray([*[label for n in numbers for label in rows[n]["labels"]][1:], IGNORED])
        ends = np.cumsum(window.lengths) - 1
        inside = np.setdiff1d(np.arange(16), ends)
        assert np.array_equal(shifted[inside], window.labels[inside]) and (shifted[ends] == IGNORED).all()
    shares = [round(d["trained_tokens"] / (64 * steps), 2) for d in result["data"]]
    assert shares == [0.75, 0.25] and steps == {"additive": 14}.get(more.get("replay_mode", ""), 10)
    switches = {"sample_packing", "sample_packing_sequentially", "curriculum_sampling", "flash_attention"}
    assert all(config[name] is True for name in switches) and config["shuffle_merged_datasets"] is False


def test_axolotl_learns_answers_only(tiny: Tiny, questions: Path) -> None:
    """Whole documents, no padding, and the labels of the run."""
    chosen = settings(tiny("llama"), questions, "axolotl", seq_len=64, batch_tokens=128, tokens=512)
    written(chosen)
    rows = [json.loads(line) for line in (Path(chosen.out) / "rows.jsonl").read_text().splitlines()]
    answers = [sum(label != IGNORED for label in r["labels"]) for r in rows]
    assert all(0 < a < len(r["labels"]) for a, r in zip(answers, rows, strict=True))
    assert all(
        label in (IGNORED, token) for r in rows for label, token in zip(r["labels"], r["input_ids"], strict=True)
    )


def test_a_sampling_is_in_the_shares(tiny: Tiny, corpus: Path, tmp_path: Path) -> None:
    """The same tokens of both corpora, of which one is the larger by far."""
    texts = tmp_path / "long.txt"
    texts.write_text("The sun is hot and the sea is deep. " * 30, encoding="utf-8")
    data = [str(corpus), f"other={texts}"]
    config, result = written(
        settings(tiny("llama"), corpus, "llamafactory", data=data, sampling="temperature:alpha=0")
    )
    drawn = [float(p) for p in config["interleave_probs"].split(",")]
    tokens = [p * d["tokens"] / d["documents"] for p, d in zip(drawn, result["data"], strict=True)]
    assert tokens[1] / sum(tokens) == pytest.approx(0.5, abs=1e-6)
    assert result["data"][0]["tokens"] != result["data"][1]["tokens"]


def test_llamafactory_draws_documents_by_tokens(tiny: Tiny, corpus: Path, tmp_path: Path) -> None:
    texts = tmp_path / "long.txt"
    texts.write_text("The sun is hot and the sea is deep. " * 30, encoding="utf-8")
    chosen = settings(tiny("llama"), corpus, "llamafactory", replay=[f"old={texts}"], replay_ratio=0.25)
    config, result = written(chosen)
    info = json.loads((Path(chosen.out) / "dataset_info.json").read_text())
    assert info == {
        "texts": {"file_name": str(corpus), "columns": {"prompt": "text"}},
        "old": {"file_name": "old.jsonl", "columns": {"prompt": "text"}},
    }
    copied = [json.loads(line) for line in (Path(chosen.out) / "old.jsonl").read_text().splitlines()]
    assert copied == [{"text": texts.read_text(encoding="utf-8")}]
    assert (config["dataset"], config["mix_strategy"], config["dataset_dir"]) == ("texts,old", "interleave_over", ".")
    drawn = [float(p) for p in config["interleave_probs"].split(",")]
    assert sum(drawn) == pytest.approx(1, abs=1e-7)
    tokens = [p * d["tokens"] / d["documents"] for p, d in zip(drawn, result["data"], strict=True)]
    assert tokens[1] / sum(tokens) == pytest.approx(0.25, abs=1e-6)
    assert "packing" not in config  # set, it takes one token off cutoff_len (hparams/data_args.py, __post_init__)


def test_llamafactorys_losses_are_told(tiny: Tiny, corpus: Path) -> None:
    notes = describe_export(settings(tiny("llama"), corpus, "llamafactory"))["notes"]
    assert "OVERWRITTEN" in notes[0] and "1 of 16 tokens" in notes[0]
    for words in ("see one another", "are dropped", "Megatron", "update k - 1"):
        assert any(words in note for note in notes)


def test_context_parallelism_takes_a_row_a_pass(tiny: Tiny, corpus: Path) -> None:
    options = {"option_to": {"context_parallel_size": "2", "tensor_parallel_size": 2}}
    config, _ = written(settings(tiny("llama"), corpus, "axolotl", **options))
    assert (config["context_parallel_size"], config["tensor_parallel_size"]) == (2, 2)
    assert (config["micro_batch_size"], config["gradient_accumulation_steps"]) == (1, 4)


def test_a_description_writes_nothing_and_says_the_same(tiny: Tiny, corpus: Path) -> None:
    chosen = settings(tiny("llama"), corpus, "axolotl")
    described = describe_export(chosen)
    assert not Path(chosen.out).exists()
    config, result = written(chosen)
    assert described["config"] == config
    for key in ("notes", "files", "plan_digest", "steps", "trained_tensors"):
        assert described[key] == result[key]


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("axolotl", {"to": "trl"}, "no exporter 'trl'"),
    ("axolotl", {"regularize": ["l2_to_base"]}, "l2_to_base"),
    ("axolotl", {"resume": True}, "not a run"),
    ("axolotl", {"seed": 1 << 32}, "below 2"),
    ("axolotl", {"ranks": 3}, "3 ranks cannot share the 4 rows"),
    ("axolotl", {"micro_batch": 3}, "do not make up the 4 rows"),
    ("axolotl", {"micro_batch": 2, "option_to": {"context_parallel_size": 2}}, "do not make up"),
    ("axolotl", {"option_to": {"context_parallel_size": 0}}, "not a number of GPUs"),
    ("axolotl", {"option_to": {"pipeline": 2}}, "has no option 'pipeline'"),
    ("axolotl", {"train": "adapter"}, "--train adapter"),
    ("llamafactory", {"packing": "whole"}, "cuts documents"),
    ("llamafactory", {"train": "decoder"}, "no tensor's name matches"),
    ("llamafactory", {"seq_len": 65}, "longer than the model's context"),
]


@pytest.mark.parametrize(("to", "changes", "problem"), REFUSED, ids=[p for _, _, p in REFUSED])
def test_what_cannot_be_said_is_refused(
    tiny: Tiny, corpus: Path, to: str, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(SurgeonError) as caught:
        run_export(settings(tiny("llama"), corpus, **({"to": to} | changes)))
    assert problem in str(caught.value)
    assert [p.name for p in corpus.parent.iterdir() if p.name.startswith(("for-", ".for-"))] == []


def test_answers_alone_are_nothing_for_llamafactory(tiny: Tiny, questions: Path) -> None:
    model = tiny("llama")
    options: dict[str, Any] = {"seq_len": 64, "batch_tokens": 128}
    with pytest.raises(SurgeonError, match="not only the answers"):
        run_export(settings(model, questions, "llamafactory", **options))
    chosen = settings(model, questions, "llamafactory", loss_on="all", **options)
    written(chosen)
    texts = [json.loads(line)["text"] for line in (Path(chosen.out) / "questions.jsonl").read_text().splitlines()]
    assert len(texts) == 3 and all("It is" in t for t in texts)


@pytest.mark.parametrize(
    ("words", "told"), [({"betas": (0.9, 1.5)}, "beta2 is 1.5"), ({"replay_ratio": 0.3}, "replay")]
)
def test_wrong_words_are_refused_as_cpt_refuses_them(
    tiny: Tiny, corpus: Path, words: dict[str, Any], told: str
) -> None:
    with pytest.raises(SurgeonError, match=told):
        describe_export(settings(tiny("llama"), corpus, "axolotl", **words))


def test_a_setting_that_is_not_known_here_is_refused(
    tiny: Tiny, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A setting that `cpt` gets later is not dropped in silence."""
    assert CptSettings.model_fields.keys() >= _trainer.CARRIED
    monkeypatch.setattr(_trainer, "CARRIED", _trainer.CARRIED - {"clip"})
    describe_export(settings(tiny("llama"), corpus, "axolotl"))
    with pytest.raises(SurgeonError, match="--clip has no counterpart"):
        describe_export(settings(tiny("llama"), corpus, "axolotl", clip=0.5))


def test_force_replaces_exports_and_nothing_that_is_read(tiny: Tiny, corpus: Path) -> None:
    model = tiny("llama")
    chosen = settings(model, corpus, "axolotl")
    run_export(chosen)
    with pytest.raises(SurgeonError, match="exists already"):
        run_export(chosen)
    run_export(chosen, force=True)
    for out in (model, corpus.parent):
        with pytest.raises(SurgeonError, match=r"input|corpus"):
            run_export(settings(model, corpus, "axolotl", out=str(out)), force=True)
    assert (model / "config.json").is_file() and corpus.is_file()


def test_a_plan_holds_its_inputs_fast(tiny: Tiny, corpus: Path) -> None:
    from surgeon.saved_plan import apply_plan, save_plan

    chosen = settings(tiny("llama"), corpus, "axolotl")
    save_plan(corpus.parent / "plan.json", "cpt export", chosen)
    result = apply_plan(corpus.parent / "plan.json", None)
    assert (Path(chosen.out) / "axolotl.yaml").is_file() and result["operation"] == "cpt export"
    corpus.write_text(corpus.read_text() * 2)
    with pytest.raises(SurgeonError, match="no longer those"):
        apply_plan(corpus.parent / "plan.json", corpus.parent / "again")
