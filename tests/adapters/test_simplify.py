"""simplify-adapter: the same update with fewer ranks, to the last bit, in a form that any PEFT loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from adapter_models import attach, close, logits, plain, trained, with_peft
from safetensors.torch import load_file, save_file

from surgeon.adapters.load import put_on
from surgeon.adapters.simplify import SimplifySettings, plan_simplify
from surgeon.errors import SurgeonError
from surgeon.ops.execute import execute
from surgeon.verify import verify


def simplify(adapter: Path | str, out: Path) -> dict[str, torch.Tensor]:
    execute(plan_simplify(SimplifySettings(adapter=str(adapter), out=out)), out)
    return load_file(out / "adapter_model.safetensors")


def gated(model: Path, folder: Path, gates: dict[str, list[int]], **settings: Any) -> Path:
    """A trained adapter whose gates of the ranks `gates` are zero in modules whose name ends so (as CoDyRA leaves
    them: folded into B)."""
    fresh = attach(model, folder / "fresh", **settings)
    trained(with_peft(model, fresh)).save_pretrained(folder / "gated")
    path = folder / "gated" / "adapter_model.safetensors"
    held = load_file(path)
    for name, tensor in held.items():
        for end, ranks in gates.items():
            if name.endswith(f"{end}.lora_B.weight"):
                tensor[:, ranks] = 0
    save_file(held, path, {"format": "pt"})
    return folder / "gated"


@pytest.mark.parametrize("scaling", ["standard", "rank-stabilized"])
def test_zero_gates_go_and_nothing_else_changes(tmp_path: Path, scaling: str) -> None:
    model = tiny.build("llama", tmp_path / "model")
    gates = {"layers.1.mlp.up_proj": [0, 2, 5], "layers.2.self_attn.q_proj": list(range(6)), "down_proj": [1]}
    adapter = gated(model, tmp_path, gates, rank=6, alpha=10, scaling=scaling)
    before, after = load_file(adapter / "adapter_model.safetensors"), simplify(adapter, tmp_path / "out")
    name = "base_model.model.model.layers.1.mlp.up_proj"
    assert torch.equal(after[f"{name}.lora_A.weight"], before[f"{name}.lora_A.weight"][[1, 3, 4]])
    assert torch.equal(after[f"{name}.lora_B.weight"], before[f"{name}.lora_B.weight"][:, [1, 3, 4]])
    assert not any("layers.2.self_attn.q_proj" in n for n in after)
    assert after["base_model.model.model.layers.3.mlp.down_proj.lora_A.weight"].shape[0] == 5
    smaller, larger = with_peft(model, tmp_path / "out"), with_peft(model, adapter)
    assert close(logits(smaller), logits(larger))
    scales = {n: m.scaling["default"] for n, m in larger.named_modules() if hasattr(m, "lora_A")}
    for module, layer in smaller.named_modules():
        if hasattr(layer, "lora_A"):
            assert layer.scaling["default"] == scales[module], "the scale is what it was to the last bit"
    assert verify(tmp_path / "out", function=True)["holds"]
    again = simplify(tmp_path / "out", tmp_path / "again")
    assert all(torch.equal(again[n], after[n]) for n in after)


@pytest.mark.parametrize("kind", ["pissa", "olora"])
def test_a_start_from_the_weights_becomes_a_plain_lora(tmp_path: Path, kind: str) -> None:
    import shutil

    model = tiny.build("llama_bias", tmp_path / "model")
    adapter = attach(model, tmp_path / "adapter", kind=kind, rank=3, alpha=2, scaling="rank-stabilized")
    moved = trained(put_on(plain(model), model, adapter, trainable=True))
    moved.save_pretrained(tmp_path / "later")
    shutil.copytree(adapter / "surgeon", tmp_path / "later" / "surgeon")
    shutil.copy(adapter / "adapter_config.json", tmp_path / "later")
    held = simplify(f"{model}+{tmp_path / 'later'}", tmp_path / "out")
    assert {t.shape[0] for n, t in held.items() if "lora_A" in n} == {6}
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["init_lora_weights"] is True and config["r"] == 6
    assert close(logits(with_peft(model, tmp_path / "out")), logits(moved))


def test_blocks_that_were_named_by_a_pattern(tmp_path: Path) -> None:
    """The modules are named in full then: a pattern left alone is one that PEFT does not load."""
    from peft import LoraConfig, get_peft_model

    model = tiny.build("llama", tmp_path / "model")
    config = LoraConfig(r=3, target_modules=["q_proj"], layers_to_transform=[1, 2], layers_pattern=["layers"])
    moved = trained(get_peft_model(plain(model), config))
    moved.save_pretrained(tmp_path / "adapter")
    held = simplify(tmp_path / "adapter", tmp_path / "out")
    assert len(held) == 4 and all(".layers.1." in n or ".layers.2." in n for n in held)
    assert close(logits(with_peft(model, tmp_path / "out")), logits(moved))


def test_what_is_no_plain_lora_is_refused(tmp_path: Path) -> None:
    model = tiny.build("llama", tmp_path / "model")
    fresh = attach(model, tmp_path / "fresh", rank=2)
    with pytest.raises(SurgeonError, match="every rank of the adapter is zero"):
        simplify(fresh, tmp_path / "out")
    with pytest.raises(SurgeonError, match="of the type VERA"):
        simplify(attach(model, tmp_path / "vera", kind="vera", rank=2), tmp_path / "out")
    with pytest.raises(SurgeonError, match="of the type DoRA"):
        simplify(attach(model, tmp_path / "dora", kind="dora", rank=2), tmp_path / "out")
    pissa = attach(model, tmp_path / "pissa", kind="pissa", rank=2)
    import shutil

    shutil.rmtree(pissa / "surgeon")
    with pytest.raises(SurgeonError, match="its start is not there"):
        simplify(pissa, tmp_path / "out")
    assert not (tmp_path / "out").exists()
