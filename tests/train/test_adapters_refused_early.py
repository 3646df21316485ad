"""What is wrong with a run on an adapter, or with the history of CoSO, is said before the model's weights are read,
and by --dry-run; by names, shapes and the adapter's own file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_meta_alignment import settings

from surgeon.errors import SurgeonError
from surgeon.loading import load_model, load_skeleton
from surgeon.train import job
from surgeon.train.run import describe_cpt, run_cpt
from surgeon.train.settings import CptSettings

WAYS = (run_cpt, describe_cpt)
Tiny = Callable[..., Path]


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "load_model", lambda *_, **__: pytest.fail("the weights were read"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group": ["absent:lr=0"]}, "no trained tensor"),
        ({"group": ["lora_[AB]:lr=0"]}, "every trained tensor has the rate 0"),
        ({"optimizer": "coso"}, "an adapter has none to keep"),
        ({"optimizer": "osf"}, "an adapter has none to keep"),
        ({"meta": ["codyra:start=normal"]}, "gates that are drawn would change"),
        ({"objective": "load_balancing"}, "no loss that balances routers"),
        ({"meta": ["alignment:rows=100000"], "replay": ["r={}"]}, "100000 windows of replay are wanted"),
        ({"checkpointing": "blocks"}, "cannot be computed again"),
    ],
)
@pytest.mark.parametrize("way", WAYS)
def test_of_a_run(
    changes: dict[str, Any], message: str, way: Callable[[CptSettings], Any], adapted: str, corpus: Path,
    unread: None, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if "checkpointing" in changes:
        from transformers.modeling_layers import GradientCheckpointingLayer

        monkeypatch.delattr(GradientCheckpointingLayer, "gradient_checkpointing")
    change_b(Path(adapted.partition("+")[2]))
    given = {k: [v.replace("{}", str(corpus)) for v in held] if k == "replay" else held for k, held in changes.items()}
    with pytest.raises(SurgeonError, match=message):
        way(settings(Path(adapted), corpus, train="adapter", **given))
    assert not corpus.with_name("out.run").exists()


def change_b(adapter: Path) -> None:
    """As a training leaves it."""
    held = load_file(adapter / "adapter_model.safetensors")
    held = {n: torch.ones_like(t) if n.endswith("lora_B.weight") else t for n, t in held.items()}
    save_file(held, adapter / "adapter_model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("way", WAYS)
def test_of_an_adapter(
    way: Callable[[CptSettings], Any], adapted: str, tiny: Tiny, corpus: Path, tmp_path: Path, unread: None
) -> None:
    adapter = Path(adapted.partition("+")[2])
    with pytest.raises(SurgeonError, match="the adapter was made for"):
        way(settings(Path(f"{tiny('llama', name='other', seed=1)}+{adapter}"), corpus, train="adapter"))
    (adapter / "surgeon.json").unlink()
    with pytest.raises(SurgeonError, match="peft cannot load the adapter"):
        way(settings(Path(f"{tiny('llama', name='narrow', hidden_size=16)}+{adapter}"), corpus, train="adapter"))
    config = json.loads((adapter / "adapter_config.json").read_text())
    for changed, message in (
        ({"target_modules": ["c_attn"]}, "peft cannot load the adapter: Target modules"),
        ({"alora_invocation_tokens": [1]}, "acts only behind certain tokens"),
    ):
        (adapter / "adapter_config.json").write_text(json.dumps(config | changed))
        with pytest.raises(SurgeonError, match=message):
            way(settings(Path(adapted), corpus, train="adapter"))


@pytest.mark.parametrize("way", WAYS)
def test_of_a_history(
    way: Callable[[CptSettings], Any], tiny: Tiny, corpus: Path, tmp_path: Path, unread: None
) -> None:
    past = tmp_path / "past"
    save_file({"model.layers.0.mlp.up_proj.weight": torch.zeros(32, 5)}, past)
    for history, message in ((past, "the matrix of"), (tmp_path / "absent", "cannot be read"), (tmp_path, "no state")):
        with pytest.raises(SurgeonError, match=message):
            way(settings(tiny("llama"), corpus, optimizer=f"coso:history={history}"))


@pytest.mark.parametrize(
    "config",
    [
        {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]},
        {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], "use_dora": True},
        {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], "init_lora_weights": "pissa"},
        {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], "trainable_token_indices": [1, 2]},
        {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], "modules_to_save": ["norm"]},
        {"peft_type": "VERA", "r": 4, "target_modules": ["q_proj"]},
        {"peft_type": "OSF", "target_modules": ["q_proj"]},
        {"peft_type": "OFT", "r": 0, "oft_block_size": 4, "target_modules": ["q_proj"]},
        {"peft_type": "SHIRA", "r": 4, "target_modules": ["q_proj"]},  # looks into values
    ],
    ids=lambda config: "-".join(map(str, [config["peft_type"], *list(config)[3:]])),
)
def test_the_skeleton_trains_what_the_model_trains(config: dict[str, Any], tiny: Tiny, tmp_path: Path) -> None:
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftModel, get_peft_model

    from surgeon.adapters.load import put_on, put_on_skeleton

    def whole() -> Any:
        return load_model(model, device=torch.device("cpu"), dtype=torch.float32)

    model, made = tiny("llama"), dict(config)
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[made.pop("peft_type")]
    get_peft_model(whole(), kind(task_type="CAUSAL_LM", **made)).save_pretrained(tmp_path / "adapter")
    found = put_on_skeleton(load_skeleton(model), tmp_path / "adapter")
    assert (found is None) is (config["peft_type"] == "SHIRA")
    wrapped = put_on(whole(), model, tmp_path / "adapter", trainable=True)
    assert isinstance(wrapped, PeftModel)
    if found is not None:
        shapes = [{n: (p.shape, p.requires_grad) for n, p in m.named_parameters()} for m in (found, wrapped)]
        assert shapes[0] == shapes[1]
    shutil.rmtree(tmp_path / "adapter")
