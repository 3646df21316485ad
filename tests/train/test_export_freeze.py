"""The exported freeze list trains what `cpt` trains: the other trainer's rule, applied to the loaded model's names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from export_rules import AXOLOTL_FIELDS, LLAMAFACTORY_FIELDS, axolotl_trains, llamafactory_trains

from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import BlockMap, Lineage, NewBlock, NewRow, RowMap, dump_lineage
from surgeon.errors import SurgeonError
from surgeon.train.export_run import run_export
from surgeon.train.export_settings import ExportSettings
from surgeon.train.trainable import Trainable, select

Tiny = Callable[..., Path]


def export(model: Path | str, corpus: Path, to: str, **changes: Any) -> tuple[dict[str, Any], list[str], Path]:
    """The exported YAML, the notes, the folder."""
    out = corpus.parent / f"for-{to}"
    options: dict[str, Any] = {"tokens": 192, "seq_len": 16, "batch_tokens": 64}
    result = run_export(
        ExportSettings(model=str(model), out=str(out), data=[str(corpus)], to=to, **(options | changes)), force=True
    )
    return yaml.safe_load((out / f"{to}.yaml").read_text()), list(result.found["notes"]), out


def selected(model: Path, what: str) -> tuple[Any, Trainable]:
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model)
    return loaded, select(loaded, what, Checkpoint.open(model).lineage)


def names_of(model: Any) -> list[str]:
    return [name for name, _ in model.named_parameters()]


def with_lineage(model: Path, **record: Any) -> Path:
    (model / "surgeon.json").write_text(dump_lineage(Lineage(operation="surgery", kind="surgery", **record)))
    return model


@pytest.mark.parametrize(
    ("family", "train"),
    [
        ("llama", "full"),
        ("llama", r"layers\.1\.mlp\.down_proj"),
        ("llama", "embed_tokens|lm_head"),
        ("llama", "norm"),
        ("gpt2", r"h\.[02]\.|ln_f"),
        ("qwen3", r"self_attn\.(q|k)_norm|layers\.2\."),
        ("mixtral", r"experts|layers\.0\."),
        ("gpt_neox", r"bias"),
    ],
)
@pytest.mark.parametrize("tied", [False, True])
def test_axolotl_trains_the_same(tiny: Tiny, corpus: Path, family: str, train: str, tied: bool) -> None:
    model = tiny(family, tie_word_embeddings=tied)
    loaded, chosen = selected(model, train)
    config, _, _ = export(model, corpus, "axolotl", train=train)
    found = axolotl_trains(names_of(loaded), config.get("unfrozen_parameters"))
    assert list(found) == list(chosen.parameters) and not any(found.values())
    assert ("unfrozen_parameters" in config) == (train != "full")


@pytest.mark.parametrize(
    ("train", "rule"),
    [
        ("full", {"finetuning_type": "full"}),
        (r"layers\.3\.", {"freeze_trainable_layers": 1, "freeze_trainable_modules": "all"}),
        (r"layers\.[23]\.|lm_head", {"freeze_trainable_layers": 2, "freeze_extra_modules": "lm_head"}),
        (r"layers\.[01]\.", {"freeze_trainable_layers": -2}),
        (r"layers\.[13]\.", {"freeze_trainable_layers": 2, "use_llama_pro": True}),
        (r"layers\.[13]\.mlp\.", {"freeze_trainable_modules": "mlp", "use_llama_pro": True}),
        (r"mlp|self_attn", {"freeze_trainable_layers": 4, "freeze_trainable_modules": "self_attn,mlp"}),
        ("embed_tokens", {"freeze_trainable_layers": 0, "freeze_extra_modules": "embed_tokens"}),
    ],
)
def test_llamafactory_trains_the_same(tiny: Tiny, corpus: Path, train: str, rule: dict[str, Any]) -> None:
    model = tiny("llama", num_hidden_layers=4)
    loaded, chosen = selected(model, train)
    config, _, _ = export(model, corpus, "llamafactory", train=train)
    assert rule.items() <= config.items() and config.keys() <= LLAMAFACTORY_FIELDS.keys()
    assert llamafactory_trains(names_of(loaded), config, 4) == list(chosen.parameters)


@pytest.mark.parametrize("train", [r"layers\.[12]\.", r"mlp\.down_proj", r"layers\.3\.mlp|layers\.0\.self_attn"])
def test_what_llamafactory_cannot_name_is_refused(tiny: Tiny, corpus: Path, train: str) -> None:
    model = tiny("llama", num_hidden_layers=4)
    with pytest.raises(SurgeonError, match="cannot name this set"):
        export(model, corpus, "llamafactory", train=train)
    assert not (corpus.parent / "for-llamafactory").exists()


def test_new_blocks_with_rates_of_their_own(tiny: Tiny, corpus: Path) -> None:
    rates = {"mlp.down_proj": 0.5, "input_layernorm": 10.0}
    blocks = BlockMap(source=[0, 1, 1, 2], new=[NewBlock(block=2, source=1, fill="f", lr_multipliers=rates)])
    model = with_lineage(tiny("llama", num_hidden_layers=4), blocks=blocks)
    loaded, chosen = selected(model, "new-blocks")
    config, notes, _ = export(model, corpus, "axolotl", train="new-blocks", lr=1e-3)
    assert list(axolotl_trains(names_of(loaded), config["unfrozen_parameters"])) == list(chosen.parameters)
    assert config["unfrozen_parameters"] == ["^model.layers.2."]
    assert config["lr_groups"] == [
        {"name": "times_0.5", "modules": ["model.layers.2.mlp.down_proj.weight"], "lr": 5e-4}
    ]
    assert any("model.layers.2.input_layernorm.weight" in n and "10 times" in n for n in notes)
    # interleaved new blocks are what use_llama_pro was made for; the last one of four is not a stride
    with pytest.raises(SurgeonError, match="cannot name this set"):
        export(model, corpus, "llamafactory", train="new-blocks")
    blocks = BlockMap(source=[0, 0, 1, 1], new=[NewBlock(block=b, source=b // 2, fill="f") for b in (1, 3)])
    config, notes, _ = export(with_lineage(model, blocks=blocks), corpus, "llamafactory", train="new-blocks")
    assert config["use_llama_pro"] and config["freeze_trainable_layers"] == 2
    assert not any("rate instead" in n for n in notes)


def test_groups_of_their_own_rate(tiny: Tiny, corpus: Path) -> None:
    """A group's factor is that of its names in a run; what lr_groups cannot say is refused, and so is any in
    LLaMA-Factory."""
    model = tiny("llama", num_hidden_layers=2)
    config, _, _ = export(model, corpus, "axolotl", group=[r"mlp\.up_proj:lr=0.1", r"mlp\.:lr=0.5"], lr=1e-3)
    found = {name: group["lr"] for group in config["lr_groups"] for name in group["modules"]}
    _, chosen = selected(model, "full")
    at = {name: 1e-4 if "up_proj" in name else 5e-4 for name in chosen.parameters if ".mlp." in name}
    assert found == pytest.approx(at) and len(at) == 6
    for group, message in (
        ("layernorm:lr=0.1", "reach no norms"),
        ("embed_tokens:lr=0.1", "reach no norms"),
        (r"mlp\.:lr=0.5,weight_decay=0", "no weight decay of their own"),
    ):
        with pytest.raises(SurgeonError, match=message):
            export(model, corpus, "axolotl", group=[group])
    with pytest.raises(SurgeonError, match="--group has no counterpart"):
        export(model, corpus, "llamafactory", group=[r"mlp\.:lr=0.5"])


def test_llamafactory_says_which_rates_it_does_not_have(tiny: Tiny, corpus: Path) -> None:
    blocks = BlockMap(
        source=[0, 1, 1], new=[NewBlock(block=2, source=1, fill="f", lr_multipliers={"input_layernorm": 10.0})]
    )
    _, notes, _ = export(with_lineage(tiny("llama"), blocks=blocks), corpus, "llamafactory", train="new-blocks")
    assert any("model.layers.2.input_layernorm.weight" in n and "10 times" in n for n in notes)


def test_new_rows_are_ranges(tiny: Tiny, corpus: Path) -> None:
    new = [300, 301, 302, 511]
    rows = RowMap(
        old=508, rows=512, new=[NewRow(id=i, token="x", pieces=[5]) for i in new], method="m", method_output="m"
    )
    model = with_lineage(tiny("llama"), rows=rows)
    loaded, chosen = selected(model, "new-rows")
    config, notes, _ = export(model, corpus, "axolotl", train="new-rows", weight_decay=0.0)
    found = axolotl_trains(names_of(loaded), config["unfrozen_parameters"])
    assert found == {name: [(300, 303), (511, 512)] for name in chosen.parameters}
    assert any("FSDP" in n for n in notes)
    with pytest.raises(SurgeonError, match="weight decay"):
        export(model, corpus, "axolotl", train="new-rows")
    with pytest.raises(SurgeonError, match="single rows"):
        export(model, corpus, "llamafactory", train="new-rows", weight_decay=0.0)


def adapter_of(base: Path, folder: Path, **options: Any) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "down_proj"], **options)
    get_peft_model(model, config).save_pretrained(folder)
    return folder


def test_an_adapter_goes_on_where_it_is(tiny: Tiny, corpus: Path, tmp_path: Path) -> None:
    """Both load it with PeftModel.from_pretrained(..., is_trainable=True): axolotl src/axolotl/loaders/adapter.py
    (load_lora), LLaMA-Factory src/llamafactory/model/adapter.py (_setup_lora_tuning)."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from surgeon.adapters.load import put_on

    base = tiny("llama")
    adapter = adapter_of(base, tmp_path / "adapter", use_rslora=True, modules_to_save=["lm_head"])
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter, is_trainable=True)
    ours = select(put_on(AutoModelForCausalLM.from_pretrained(base), base, adapter, trainable=True), "adapter", None)
    assert [n for n, p in theirs.named_parameters() if p.requires_grad] == list(ours.parameters)

    config, _, _ = export(f"{base}+{adapter}", corpus, "axolotl", train="adapter")
    expected = {"adapter": "lora", "lora_model_dir": str(adapter), "lora_r": 2, "lora_alpha": 8, "lora_dropout": 0.0}
    assert expected.items() <= config.items() and "unfrozen_parameters" not in config
    assert config.keys() <= AXOLOTL_FIELDS.keys()
    assert config["lora_target_modules"] == ["down_proj", "q_proj"] and config["peft_use_rslora"] is True
    config, _, _ = export(f"{base}+{adapter}", corpus, "llamafactory", train="adapter")
    assert config.keys() <= LLAMAFACTORY_FIELDS.keys()
    assert config["finetuning_type"] == "lora" and config["adapter_name_or_path"] == str(adapter)
    assert config["create_new_adapter"] is False  # else it would be merged into the weights and a new one made


@pytest.mark.parametrize("to", ["axolotl", "llamafactory"])
def test_an_adapter_whose_start_peft_would_lose_is_refused(tiny: Tiny, corpus: Path, tmp_path: Path, to: str) -> None:
    base = tiny("llama")
    adapter = adapter_of(base, tmp_path / "adapter", init_lora_weights="pissa")
    with pytest.raises(SurgeonError, match="decompose them once more"):
        export(f"{base}+{adapter}", corpus, to, train="adapter")


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3", "mixtral", "gpt_neox"])
@pytest.mark.parametrize("tied", [False, True])
def test_the_skeleton_has_the_names_of_the_model(tiny: Tiny, family: str, tied: bool) -> None:
    from surgeon.loading import load_skeleton

    model = tiny(family, tie_word_embeddings=tied)
    skeleton, (loaded, _) = load_skeleton(model), selected(model, "full")
    shapes = [{n: tuple(p.shape) for n, p in m.named_parameters()} for m in (skeleton, loaded)]
    assert list(shapes[0].items()) == list(shapes[1].items())
    assert all(p.is_meta for p in skeleton.parameters())
