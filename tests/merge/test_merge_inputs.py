"""What a merge takes and what it refuses: adapters, types that differ, codes, values that are no numbers."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from merge_models import expanded, same_tensors, tensors, trained
from safetensors.torch import save_file

from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.rounding import round_once
from surgeon.errors import SurgeonError
from surgeon.merge.models import MergeModelsSettings, plan_merge_models
from surgeon.merge.plan import MergeSettings, plan_merge
from surgeon.ops.execute import execute
from surgeon.verify import verify

sys.path.insert(0, str(Path(__file__).parent.parent / "adapters"))
import adapter_models as adapters


def with_adapter(model: Path, root: Path, name: str, **settings: Any) -> Path:
    """An adapter on the model, moved at random and saved by PEFT."""
    fresh = adapters.attach(model, root / f"{name}-fresh", **settings)
    adapters.trained(adapters.with_peft(model, fresh)).save_pretrained(root / name)
    return root / name


def merge(base: Path, out: Path, *add: str, **settings: Any) -> Path:
    execute(plan_merge(MergeSettings(base=str(base), out=out, add=list(add), **settings)), out)
    return out


@pytest.mark.parametrize("kind", ["lora", "dora", "pissa"])
def test_a_model_with_an_adapter_is_what_folding_gives(stories: Path, tmp_path: Path, kind: str) -> None:
    adapter = with_adapter(stories, tmp_path, "adapter", kind=kind)
    folded = tmp_path / "folded"
    adapters.fold(stories, adapter, folded)
    out = merge(stories, tmp_path / "out", f"{stories}+{adapter}=1")
    assert same_tensors(out, folded) and not same_tensors(out, stories)
    assert verify(out, function=True)["holds"]


def test_an_adapter_of_another_model_is_refused(stories: Path, tmp_path: Path) -> None:
    adapter = adapters.attach(trained(stories, tmp_path / "other", 1), tmp_path / "adapter")
    word = f"{stories}+{adapter}"
    with pytest.raises(SurgeonError, match="was made for other"):
        merge(stories, tmp_path / "out", word)
    with pytest.raises(SurgeonError, match="was made for other"):
        plan_merge_models(MergeModelsSettings(method="linear", out=tmp_path / "out", models=[word]))
    merge(stories, tmp_path / "out", word, any_base=True)


def test_an_adapter_and_a_model_in_one_sum(stories: Path, tmp_path: Path) -> None:
    deep = expanded(stories, tmp_path / "deep", [1])
    domain = trained(deep, tmp_path / "domain", 2)
    adapter = with_adapter(stories, tmp_path, "adapter", targets="attention.q,mlp.up")
    out = tensors(merge(stories, tmp_path / "out", f"{stories}+{adapter}=0.5", f"{domain}=0.8"))
    config = json.loads((adapter / "adapter_config.json").read_text())
    from safetensors.torch import load_file

    held = load_file(adapter / "adapter_model.safetensors")
    scaling = config["lora_alpha"] / config["r"]
    base, own = tensors(stories), tensors(domain)
    for block, source in {0: 0, 1: 1, 3: 2, 4: 3, 5: 4}.items():
        at, origin = f"model.layers.{block}.mlp.up_proj.weight", f"model.layers.{source}.mlp.up_proj"
        a, b = (held[f"base_model.model.{origin}.lora_{x}.weight"].double() for x in "AB")
        w = base[f"{origin}.weight"].double()
        exact = w + 0.5 * scaling * (b @ a) + 0.8 * (own[at].double() - w)
        torch.testing.assert_close(out[at], exact.float(), rtol=0, atol=1e-7)


def test_two_adapters_on_one_model(stories: Path, tmp_path: Path) -> None:
    one, other = (with_adapter(stories, tmp_path, n, seed=s) for n, s in (("one", 1), ("other", 2)))
    both = merge(stories, tmp_path / "both", f"{stories}+{one}=0.5", f"{stories}+{other}=0.25")
    swapped = merge(stories, tmp_path / "swapped", f"{stories}+{other}=0.25", f"{stories}+{one}=0.5")
    assert same_tensors(both, swapped)
    assert (both / "surgeon.json").read_bytes() == (swapped / "surgeon.json").read_bytes()
    assert verify(both, function=True)["holds"]
    assert len(Checkpoint.open(both).lineage.parents) == 3  # type: ignore[union-attr]


def test_models_with_adapters_without_a_base(stories: Path, tmp_path: Path) -> None:
    adapter = with_adapter(stories, tmp_path, "adapter")
    folded = tmp_path / "folded"
    adapters.fold(stories, adapter, folded)
    chat = trained(stories, tmp_path / "chat", 2)

    def linear(out: Path, *models: str) -> Path:
        execute(plan_merge_models(MergeModelsSettings(method="linear", out=out, models=list(models))), out)
        return out

    whole = linear(tmp_path / "whole", f"{stories}+{adapter}=1", f"{chat}=0")
    assert same_tensors(whole, folded)
    half = tensors(linear(tmp_path / "half", f"{stories}+{adapter}", str(chat)))
    for name, f in tensors(folded).items():
        # the folded model is rounded once more
        torch.testing.assert_close(half[name], (f + tensors(chat)[name]) / 2, rtol=1.2e-7, atol=1e-8)
    assert verify(tmp_path / "whole", function=True)["holds"]


def cast(model: Path, out: Path, dtype: torch.dtype) -> Path:
    shutil.copytree(model, out)
    save_file({n: t.to(dtype) for n, t in tensors(model).items()}, out / "model.safetensors", {"format": "pt"})
    config = out / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": str(dtype).removeprefix("torch.")}))
    return out


def test_types_may_differ(stories: Path, tmp_path: Path) -> None:
    base = cast(stories, tmp_path / "base", torch.bfloat16)
    wide = trained(stories, tmp_path / "wide", 1, lineage=False)
    half = cast(trained(stories, tmp_path / "x", 2, lineage=False), tmp_path / "half", torch.float16)
    out = tensors(merge(base, tmp_path / "out", f"{wide}=0.6", f"{half}=0.3"))
    b = tensors(base)
    added = sorted(((wide, 0.6), (half, 0.3)), key=lambda entry: Checkpoint.open(entry[0]).digest)
    for name, found in out.items():
        exact = b[name].double()
        for model, weight in added:
            exact = exact + (tensors(model)[name].double() - b[name].double()) * weight
        assert found.dtype == torch.bfloat16
        assert torch.equal(found, round_once(exact, torch.bfloat16))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"quant_method": "fp8", "activation_scheme": "dynamic"}, "fp8"),
        ({"quant_method": "gptq", "bits": 4}, "gptq 4-bit"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes 4-bit"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes 8-bit"),
    ],
)
def test_quantised_models_are_refused_by_name(
    stories: Path, tmp_path: Path, config: dict[str, Any], said: str
) -> None:
    coded = trained(stories, tmp_path / "coded", 1, lineage=False)
    path = coded / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": config}))
    for base, add in ((stories, coded), (coded, stories)):
        with pytest.raises(SurgeonError, match=f"coded is quantised \\({said}\\)"):
            plan_merge(MergeSettings(base=str(base), out=tmp_path / "x", add=[str(add)]))


def test_eight_bit_codes_are_refused_without_a_word_in_the_config(stories: Path, tmp_path: Path) -> None:
    coded = trained(stories, tmp_path / "coded", 1, lineage=False)
    name = "model.layers.0.mlp.up_proj.weight"
    held = tensors(coded)
    save_file(held | {name: held[name].to(torch.float8_e4m3fn)}, coded / "model.safetensors", {"format": "pt"})
    with pytest.raises(SurgeonError, match=f"{re.escape(name)} is F8_E4M3"):
        plan_merge(MergeSettings(base=str(stories), out=tmp_path / "x", add=[str(coded)]))


@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
@pytest.mark.parametrize(("value", "said"), [(float("nan"), "NaN"), (float("-inf"), "an infinite value")])
@pytest.mark.parametrize("where", ["base", "tuned"])
def test_what_is_no_number_is_named(
    stories: Path, tmp_path: Path, method: str, value: float, said: str, where: str
) -> None:
    name = "model.layers.3.self_attn.v_proj.weight"
    models = {n: trained(stories, tmp_path / n, s, lineage=False) for n, s in (("base", 1), ("tuned", 2), ("x", 3))}
    held = tensors(models[where])
    held[name].view(-1)[77] = value
    save_file(held, models[where] / "model.safetensors", {"format": "pt"})
    out = tmp_path / "out"
    words = [f"{models['tuned']}=0.5", f"{models['x']}=0.5"]
    plan = plan_merge(MergeSettings(base=str(models["base"]), out=out, add=words, method=method))
    with pytest.raises(SurgeonError) as found:
        execute(plan, out)
    assert name in found.value.problem and said in found.value.problem and "77" in found.value.problem
    assert found.value.where == str(models[where]) and not out.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "tuned", "x"]


def test_values_that_the_type_cannot_hold(stories: Path, tmp_path: Path) -> None:
    tuned = trained(stories, tmp_path / "tuned", 1, lineage=False)
    held = tensors(tuned)
    held["model.norm.weight"][3] = 1e5
    save_file(held, tuned / "model.safetensors", {"format": "pt"})
    plan = plan_merge(MergeSettings(base=str(stories), out=tmp_path / "o", add=[f"{tuned}=2"], dtype="float16"))
    with pytest.raises(SurgeonError, match="F16 cannot hold"):
        execute(plan, tmp_path / "o")


def test_a_tensor_that_is_missing(stories: Path, tmp_path: Path) -> None:
    tuned = trained(stories, tmp_path / "tuned", 1, lineage=False)
    held = tensors(tuned)
    del held["model.layers.2.mlp.up_proj.weight"]
    save_file(held, tuned / "model.safetensors", {"format": "pt"})
    with pytest.raises(SurgeonError, match=r"model\.layers\.2\.mlp\.up_proj\.weight"):
        plan_merge(MergeSettings(base=str(stories), out=tmp_path / "o", add=[f"{tuned}=0.5"]))
