"""Every kind of adapter: attached it changes nothing, and folded it is what PEFT computes with it unmerged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from adapter_models import attach, close, fold, logits, plain, trained, with_peft
from safetensors.torch import load_file

from surgeon import registry
from surgeon.adapters.inspect import adapter_is_identity, inspect_adapter, inspect_on_model
from surgeon.adapters.load import put_on
from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError, UsageError

PEFT_TYPES: dict[str, dict[str, Any]] = {
    "LOHA": {},
    "LOKR": {"r": 4},
    "OFT": {"oft_block_size": 8},
    "BOFT": {"boft_block_size": 8},
    "HRA": {"r": 4},
    "IA3": {"feedforward_modules": ["down_proj"]},
    "MISS": {"r": 8},
    "ROAD": {"group_size": 8},
    "DELORA": {"r": 4},
}
# one basis for all modules, or a choice between several: not to be merged one matrix at a time
TOGETHER = ("RANDLORA", "LILY")
SMALL: dict[str, dict[str, Any]] = {
    "lora": {"rank": 4, "alpha": 8},
    "dora": {"rank": 4, "alpha": 8},
    "pissa": {"rank": 4, "alpha": 8},
    "olora": {"rank": 4, "alpha": 8},
    "eva": {"rank": 4, "alpha": 8, "probe": "PROBE", "probe_tokens": 600},
    "corda": {"rank": 4, "alpha": 8, "probe": "PROBE", "probe_tokens": 600},
    "vera": {"rank": 8},
    "adalora": {"rank": 4, "alpha": 8},
    "osf": {"rank": 4},
}
# float32 decompositions come back up to their rounding
NEARLY = ("pissa", "olora", "corda", "osf")


@pytest.fixture
def probe(tmp_path: Path) -> str:
    text = "Once upon a time there was a little dog who liked to play in the garden with his friend. "
    (tmp_path / "probe.jsonl").write_text("\n".join(json.dumps({"text": text * 2}) for _ in range(4)))
    return str(tmp_path / "probe.jsonl")


def model_of(family: str, folder: Path, stories: Path) -> Path:
    """A tiny model that has a tokenizer, for kinds that read text."""
    import shutil

    model = tiny.build(family, folder, vocab_size=512)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(stories / name, model)
    return model


def test_every_kind_is_tested() -> None:
    assert {*SMALL, "peft"} == set(registry.names("adapter"))


@pytest.mark.parametrize("family", ["llama_bias", "qwen3", "gpt2"])
@pytest.mark.parametrize("kind", SMALL)
def test_a_kind_from_its_start_to_the_folded_model(
    kind: str, family: str, tmp_path: Path, stories: Path, probe: str
) -> None:
    if family == "gpt2" and kind in ("osf", "olora"):
        with pytest.raises(SurgeonError, match="PEFT"):  # neither takes GPT-2's Conv1D
            attach(tiny.build("gpt2", tmp_path / "model"), tmp_path / "adapter", kind=kind, rank=4)
        return
    model = model_of(family, tmp_path / "model", stories)
    settings = {k: probe if v == "PROBE" else v for k, v in SMALL[kind].items()}
    adapter = attach(model, tmp_path / "adapter", kind=kind, **settings)
    base = logits(plain(model))
    fresh = put_on(plain(model), model, adapter)
    assert torch.equal(logits(fresh), base) if kind not in NEARLY else close(logits(fresh), base)
    assert adapter_is_identity(adapter, model)[0]
    fold(model, adapter, tmp_path / "untrained")
    same = Checkpoint.open(tmp_path / "untrained").digest == Checkpoint.open(model).digest
    assert same or kind in ("osf", "dora"), "an untrained adapter folds to the very model"
    assert close(logits(plain(tmp_path / "untrained")), base)
    moved = trained(put_on(plain(model), model, adapter, trainable=True))
    computed = logits(moved)
    assert float((computed - base).abs().max()) > 1e-2
    later = tmp_path / "later"
    moved.save_pretrained(later)
    keep_start(adapter, later)
    assert torch.equal(logits(put_on(plain(model), model, later)), computed)
    fold(model, later, tmp_path / "folded")
    assert close(logits(plain(tmp_path / "folded")), computed)
    found = inspect_on_model(model, later)
    assert all(0 < share < 2 for share in found["relative_update"].values())


def keep_start(adapter: Path, later: Path) -> None:
    """What cpt carries along: the start, and the kind in the configuration."""
    import shutil

    shutil.copy(adapter / "adapter_config.json", later)
    if (adapter / "surgeon").is_dir():
        shutil.copytree(adapter / "surgeon", later / "surgeon")


@pytest.mark.parametrize("kind", [k for k in SMALL if k != "corda"])
def test_a_kind_loads_in_plain_peft_and_changes_nothing(kind: str, tmp_path: Path, stories: Path, probe: str) -> None:
    model = model_of("llama", tmp_path / "model", stories)
    settings = {k: probe if v == "PROBE" else v for k, v in SMALL[kind].items()}
    adapter = attach(model, tmp_path / "adapter", kind=kind, **settings)
    found, base = logits(with_peft(model, adapter)), logits(plain(model))
    assert torch.equal(found, base) if kind not in NEARLY else close(found, base)


def test_corda_cannot_be_loaded_by_peft_alone(tmp_path: Path, stories: Path, probe: str) -> None:
    """PEFT decomposes again where it loads, and has nothing to do it with: why the start is kept beside it."""
    model = model_of("llama", tmp_path / "model", stories)
    adapter = attach(model, tmp_path / "adapter", kind="corda", rank=4, probe=probe)
    with pytest.raises(ValueError, match="eigens"):
        with_peft(model, adapter)
    import shutil

    shutil.rmtree(adapter / "surgeon")
    with pytest.raises(SurgeonError, match="its start is not there"):
        fold(model, adapter, tmp_path / "out")


@pytest.mark.parametrize("name", PEFT_TYPES)
def test_whatever_peft_has_is_attached_and_folded(name: str, tmp_path: Path) -> None:
    model = tiny.build("llama_bias", tmp_path / "model")
    option = {"type": name.lower(), "config": json.dumps(PEFT_TYPES[name])}
    targets = {"IA3": "attention.k,attention.v,mlp.down"}.get(name, "all-linear")
    adapter = attach(model, tmp_path / "adapter", kind="peft", targets=targets, option=option)
    base = logits(plain(model))
    assert adapter_is_identity(adapter, model)[0]
    moved = put_on(plain(model), model, adapter, trainable=True)
    assert close(logits(moved), base)
    trained(moved)
    moved.save_pretrained(tmp_path / "later")
    computed = logits(moved)
    assert float((computed - base).abs().max()) > 1e-2
    fold(model, tmp_path / "later", tmp_path / "folded")
    assert close(logits(plain(tmp_path / "folded")), computed)


@pytest.mark.parametrize("name", TOGETHER)
def test_what_peft_cannot_merge_by_itself_is_attached_and_not_folded(name: str, tmp_path: Path) -> None:
    model = tiny.build("llama_bias", tmp_path / "model")
    option = {"type": name, "config": '{"r": 4}'}
    adapter = attach(model, tmp_path / "adapter", kind="peft", option=option)
    base = logits(plain(model))
    assert close(logits(with_peft(model, adapter)), base)
    moved = put_on(plain(model), model, adapter, trainable=True)
    assert close(logits(moved), base)
    with pytest.raises(SurgeonError, match=f"PEFT does not merge {name} into a matrix by itself"):
        fold(model, adapter, tmp_path / "folded")
    assert not (tmp_path / "folded").exists()


def test_an_adapter_that_is_one_vector_for_all_modules_is_not_folded_to_nothing(tmp_path: Path) -> None:
    model = tiny.build("llama_bias", tmp_path / "model")
    adapter = attach(model, tmp_path / "adapter", kind="peft", option={"type": "UNILORA", "config": '{"r": 4}'})
    assert not torch.equal(logits(with_peft(model, adapter)), logits(plain(model)))
    with pytest.raises(SurgeonError, match="which many modules share"):
        fold(model, adapter, tmp_path / "folded")


@pytest.mark.parametrize("targets", ["embedding", "embedding,head", "all-linear,embedding"])
def test_a_lora_on_the_embedding(targets: str, tmp_path: Path) -> None:
    """Untied: there A is the embedding's side and starts at zero, and B is normal."""
    model = tiny.build("llama", tmp_path / "model")
    adapter = attach(model, tmp_path / "adapter", rank=4, targets=targets)
    base = logits(plain(model))
    assert torch.equal(logits(with_peft(model, adapter)), base)
    start = load_file(adapter / "adapter_model.safetensors")
    inner = {name.split(".")[-1]: t for name, t in start.items() if "lora_embedding" in name}
    assert not inner["lora_embedding_A"].any()
    assert inner["lora_embedding_B"].std() == pytest.approx(1, abs=0.15)
    moved = trained(put_on(plain(model), model, adapter, trainable=True))
    moved.save_pretrained(tmp_path / "later")
    computed = logits(moved)
    assert float((computed - base).abs().max()) > 1e-2
    fold(model, tmp_path / "later", tmp_path / "folded")
    assert close(logits(plain(tmp_path / "folded")), computed)


def test_pissa_of_another_tool_is_folded_as_peft_would_load_it(tmp_path: Path) -> None:
    """Without the start: PEFT decomposes the weights once more, one module at a time."""
    from peft import LoraConfig, get_peft_model

    model = tiny.build("llama", tmp_path / "model")
    for init in ("pissa", "olora"):
        config = LoraConfig(r=4, lora_alpha=8, init_lora_weights=init, target_modules=["q_proj", "down_proj"])
        wrapped = trained(get_peft_model(plain(model), config))
        wrapped.save_pretrained(tmp_path / init)
        fold(model, tmp_path / init, tmp_path / f"{init}-folded")
        assert close(logits(plain(tmp_path / f"{init}-folded")), logits(wrapped.eval()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "vera", "alpha": 4}, "the kind vera has no alpha"),
        ({"kind": "osf", "scaling": "standard"}, "the kind osf has no scaling"),
        ({"kind": "eva"}, "looks at the model on a text"),
        ({"probe": "x.jsonl"}, "reads no text"),
        ({"kind": "peft", "option": {"type": "LARA"}}, "no adapter of weights 'LARA'"),
        ({"kind": "peft", "option": {"type": "LOHA", "config": "{r: 8}"}}, "is not JSON"),
        ({"kind": "peft", "option": {"type": "LOHA", "config": '{"ranks": 8}'}}, "has no keyword 'ranks'"),
        ({"preset": "cpt"}, "no preset 'cpt'"),
    ],
)
def test_wrong_choices_are_refused(tmp_path: Path, stories: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        attach(stories, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_a_rank_that_a_decomposition_does_not_have_is_refused(tmp_path: Path, stories: Path) -> None:
    with pytest.raises(SurgeonError, match=r"has rank \d+: the matrix has no 5000 parts"):
        attach(stories, tmp_path / "out", kind="pissa", rank=5000)


def test_the_same_seed_gives_the_same_adapter(tmp_path: Path) -> None:
    model = tiny.build("llama", tmp_path / "model")
    for kind in ("vera", "adalora", "dora"):
        names = [attach(model, tmp_path / f"{kind}{i}", kind=kind, rank=4, seed=s) for i, s in enumerate((1, 1, 2))]
        one, two, other = (load_file(n / "adapter_model.safetensors") for n in names)
        assert all(torch.equal(one[n], two[n]) for n in one)
        assert any(not torch.equal(one[n], other[n]) for n in one)
        assert inspect_adapter(names[0])["kind"] == kind
