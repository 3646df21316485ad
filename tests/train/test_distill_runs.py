"""Every objective with a teacher and every pull to the start, as whole runs: finite, deterministic, resumed to the
same bytes, nothing at strength 0, with frozen blocks and adapters; or refused by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from surgeon.errors import SurgeonError
from surgeon.train.loop import Loop
from surgeon.train.run import run_cpt
from surgeon.train.settings import CptSettings

Words = dict[str, Any]
Plain = Callable[[Path, Words], bytes]
METHODS: dict[str, Callable[[str, Path], Words]] = {
    "logit_swap": lambda s, _: {"objective": f"logit_swap:weight={s}"},
    "distill": lambda s, _: {"objective": f"distill:weight={s}"},
    "kl_reference": lambda s, _: {"objective": f"kl_reference:weight={s}"},
    "hidden_distill": lambda s, _: {"objective": f"hidden_distill:weight={s}"},
    "compatible_teacher": lambda s, _: {"objective": f"compatible_teacher:weight={s},m=0.5"},
    "l2_to_base": lambda s, _: {"regularize": [f"l2_to_base:strength={s}"]},
    "ewc": lambda s, c: {"regularize": [f"ewc:strength={s},probe={c},tokens=100"]},
    "proximal_l2": lambda s, _: {"meta": [f"proximal_l2:strength={s}"]},
    "proximal_ewc": lambda s, c: {"meta": [f"proximal_ewc:strength={s},probe={c},tokens=100"]},
}
PULLS = ("l2_to_base", "ewc", "proximal_l2", "proximal_ewc")
TRAIN = ["full", r"layers\.2\."]


@pytest.fixture
def base(corpus: Path, tmp_path: Path) -> Words:
    return {
        "data": [str(corpus)], "replay": [f"old={corpus}"], "replay_ratio": 0.4, "tokens": 384, "seq_len": 16,
        "batch_tokens": 64, "micro_batch": 2, "lr": 1e-2, "device": "cpu",
    }  # fmt: skip


def trained(model: Path, out: Path, words: Words) -> bytes:
    run_cpt(CptSettings(model=str(model), out=str(out), **words))
    return (out / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Plain:
    """The weights that a run without any method ends with: made once for the same model, corpora and settings."""
    made: dict[str, bytes] = {}

    def of(model: Path, words: Words) -> bytes:
        corpora = {k: [Path(w.split("=")[-1]).read_text() for w in words[k]] for k in ("data", "replay")}
        weights = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
        key = json.dumps([weights, (model / "config.json").read_text(), words | corpora])
        if key not in made:
            made[key] = trained(model, tmp_path_factory.mktemp("plain") / "out", words)
        return made[key]

    return of


class DiedError(Exception):
    pass


def die_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Loop._step

    def until(self: Loop, number: int, windows: Any) -> Any:
        if number > step:
            raise DiedError
        return plain(self, number, windows)

    monkeypatch.setattr(Loop, "_step", until)


@pytest.mark.parametrize("train", TRAIN)
@pytest.mark.parametrize("method", list(METHODS))
def test_killed_and_resumed_is_the_same_bytes(
    method: str, train: str, tiny: Callable[..., Path], corpus: Path, tmp_path: Path, base: Words, plain: Plain
) -> None:
    """With dropout: the teacher draws nothing, and the random numbers of a step are those of the run that went on."""
    model = tiny("llama", attention_dropout=0.1 if train == "full" else 0.0)
    words = base | METHODS[method]("3", corpus) | {"train": train, "save_every": 3}
    whole = trained(model, tmp_path / "whole", words)
    with pytest.MonkeyPatch.context() as patch:
        die_after(5, patch)
        with pytest.raises(DiedError):
            trained(model, tmp_path / "killed", words)
    assert [p.name for p in (tmp_path / "killed.run" / "state").iterdir()] == ["step-00000003.pt"]
    assert trained(model, tmp_path / "killed", words | {"resume": True}) == whole
    assert plain(model, base | {"train": train}) != whole, "it does something"
    assert all(bool(t.isfinite().all()) for t in load_file(tmp_path / "whole" / "model.safetensors").values())


@pytest.mark.parametrize("method", list(METHODS))
def test_no_strength_is_plain_cpt(
    method: str, tiny: Callable[..., Path], corpus: Path, tmp_path: Path, base: Words, plain: Plain
) -> None:
    """Of a mixture of experts with dropout: no random number is drawn more."""
    model = tiny("mixtral", "bfloat16", attention_dropout=0.1, num_local_experts=8)
    assert trained(model, tmp_path / "none", base | METHODS[method]("0", corpus)) == plain(model, base)


@pytest.mark.parametrize("method", list(METHODS))
def test_adapters(method: str, tiny: Callable[..., Path], corpus: Path, tmp_path: Path, base: Words) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = tiny("llama")
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], layers_to_transform=[1, 2])
    get_peft_model(AutoModelForCausalLM.from_pretrained(model), config).save_pretrained(tmp_path / "adapter")
    before = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    far = []
    for strength in ("0", "50"):
        words = base | METHODS[method](strength, corpus) | {"train": "adapter"}
        out = tmp_path / f"out{strength}"
        run_cpt(CptSettings(model=f"{model}+{tmp_path / 'adapter'}", out=str(out), **words))
        after = load_file(out / "adapter_model.safetensors")
        assert after.keys() == before.keys()
        far.append(sum(float((after[n] - before[n]).square().sum()) for n in before))
    assert far[0] > 0
    if method in PULLS:
        assert far[1] < far[0]


@pytest.mark.parametrize("method", ["distill", "kl_reference", "hidden_distill", "compatible_teacher"])
def test_the_first_step_has_no_teacher_to_follow(
    method: str, tiny: Callable[..., Path], corpus: Path, tmp_path: Path, base: Words
) -> None:
    """Student and teacher are the same model then: divergence and gradient are zero, whatever the weight."""
    model = tiny("llama")
    words = base | {"tokens": 64, "schedule": "constant", "option": {"warmup": 0}}
    found = [
        trained(model, tmp_path / name, words | more)
        for name, more in (("plain", {}), ("distilled", METHODS[method]("1e6", corpus)))
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize("method", ["distill", "hidden_distill"])
def test_blocks_that_are_computed_again_are_the_students(
    method: str, tiny: Callable[..., Path], corpus: Path, tmp_path: Path, base: Words
) -> None:
    """Not the teacher's, whose weights stood in their places in between; nor are the shared ones missing."""
    words = base | METHODS[method]("3", corpus) | {"train": r"layers\.[12]\."}
    found = [trained(tiny("llama"), tmp_path / how, words | {"checkpointing": how}) for how in ("none", "blocks")]
    assert found[0] == found[1]


@pytest.mark.parametrize("method", PULLS[:3])
def test_a_pull_of_great_strength_ends_nearer(
    method: str, tiny: Callable[..., Path], corpus: Path, tmp_path: Path, base: Words
) -> None:
    model = tiny("llama")
    before = load_file(model / "model.safetensors")
    far = []
    for strength in ("0", "1", "1000"):
        trained(model, tmp_path / strength, base | METHODS[method](strength, corpus))
        after = load_file(tmp_path / strength / "model.safetensors")
        far.append(sum(float((after[n].float() - before[n].float()).square().sum()) for n in before))
    assert far[0] > far[1] > far[2]


def test_a_proximal_step_without_end_is_the_start(
    tiny: Callable[..., Path], corpus: Path, tmp_path: Path, base: Words
) -> None:
    model = tiny("llama")
    trained(model, tmp_path / "out", base | METHODS["proximal_l2"]("1e30", corpus))
    before, after = (load_file(p / "model.safetensors") for p in (model, tmp_path / "out"))
    assert all(torch.equal(before[n], after[n]) for n in before)


@pytest.mark.parametrize("objective", ["distill", "logit_swap", "hidden_distill", "kl_reference"])
def test_a_teacher_by_path_that_is_the_start_is_the_start(
    objective: str, tiny: Callable[..., Path], tmp_path: Path, base: Words
) -> None:
    model = tiny("llama")
    words = base | {"objective": objective}
    found = [
        trained(model, tmp_path / name, words | more) for name, more in (("a", {}), ("b", {"teacher": str(model)}))
    ]
    assert found[0] == found[1]


def test_another_teacher_decides_the_result(tiny: Callable[..., Path], tmp_path: Path, base: Words) -> None:
    model = tiny("llama")
    trained(model, tmp_path / "taught", base)
    held = (tmp_path / "taught" / "model.safetensors").read_bytes()
    words = base | {"objective": "hidden_distill", "keep_state": True}
    a = trained(model, tmp_path / "a", words)
    b = trained(model, tmp_path / "b", words | {"teacher": str(tmp_path / "taught")})
    assert a != b and (tmp_path / "taught" / "model.safetensors").read_bytes() == held
    (tmp_path / "b.run").rename(tmp_path / "c.run")
    with pytest.raises(SurgeonError, match="this changed: teacher"):
        trained(model, tmp_path / "c", words | {"teacher": str(model), "resume": True})


def test_a_probe_decides_the_result_and_its_place_does_not(
    tiny: Callable[..., Path], corpus: Path, tmp_path: Path, base: Words
) -> None:
    model, moved = tiny("llama"), tmp_path / "elsewhere.jsonl"
    moved.write_bytes(corpus.read_bytes())
    words = base | {"keep_state": True}
    trained(model, tmp_path / "a", words | METHODS["ewc"]("1", corpus))
    digests = []
    for probe in (corpus, moved):
        from surgeon.train.job import prepare

        settings = CptSettings(model=str(model), out=str(tmp_path / "d"), **base | METHODS["ewc"]("1", probe))
        digests.append(prepare(settings, dry=True).digest)
    assert digests[0] == digests[1]
    (tmp_path / "a.run").rename(tmp_path / "b.run")
    moved.write_text('{"text": "Other text."}\n')
    with pytest.raises(SurgeonError, match="probes"):
        trained(model, tmp_path / "b", words | METHODS["ewc"]("1", moved) | {"resume": True})


REFUSED = [
    ({"teacher": "{model}"}, "does not learn from another model"),
    ({"teacher": "{model}", "objective": "compatible_teacher"}, "does not learn from another model"),
    ({"teacher": "{small}", "objective": "distill"}, "logits"),
    ({"teacher": "{narrow}", "objective": "hidden_distill"}, "hidden states have 16"),
    ({"objective": "kl_reference", "replay": [], "replay_ratio": None}, "compares on replayed text"),
    ({"objective": "distill:weight=-1"}, "not valid"),
    ({"objective": "distill:temperature=0"}, "not valid"),
    ({"meta": ["proximal_l2:strength=inf"]}, "not valid"),
    ({"regularize": ["ewc"]}, "needs the option 'probe'"),
    ({"regularize": ["ewc:probe=nowhere.jsonl"]}, "no such corpus"),
]


@pytest.mark.parametrize(("words", "problem"), REFUSED, ids=[p for _, p in REFUSED])
def test_refusals(words: Words, problem: str, tiny: Callable[..., Path], tmp_path: Path, base: Words) -> None:
    model = tiny("llama")
    if "teacher" in words:
        places = {
            "model": model,
            "small": tiny("llama", name="small", vocab_size=600),
            "narrow": tiny("llama", name="narrow", hidden_size=16, num_attention_heads=2),
        }
        words = words | {"teacher": words["teacher"].format(**places)}
    with pytest.raises(SurgeonError, match=problem):
        trained(model, tmp_path / "out", base | words)
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.run").exists()


def test_a_teacher_with_other_tokens_is_refused(tiny: Callable[..., Path], tmp_path: Path, base: Words) -> None:
    model, other = tiny("llama"), tiny("llama", name="other")
    text = (other / "tokenizer.json").read_text()
    held = json.loads(text)
    vocab = held["model"]["vocab"]
    first, second = list(vocab)[-2:]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    (other / "tokenizer.json").write_text(json.dumps(held))
    with pytest.raises(SurgeonError, match="other tokens"):
        trained(model, tmp_path / "out", base | {"objective": "distill", "teacher": str(other)})
