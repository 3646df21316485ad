"""extend-context: bytes stay, frequencies follow the formula, both spellings of a configuration load the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from surgeon.arch.positions import read_positions
from surgeon.checkpoint.index import Checkpoint
from surgeon.context.change import Wanted, changed
from surgeon.context.frequencies import inverse_frequencies
from surgeon.context.plan import ExtendContextSettings, plan_extend_context
from surgeon.errors import SurgeonError, UsageError
from surgeon.ops.execute import execute
from surgeon.verify import verify

Tiny = Callable[..., Path]


def extended(model: Path, out: Path, **settings: Any) -> Path:
    execute(plan_extend_context(ExtendContextSettings(model=str(model), out=out, **settings)), out)
    return out


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def respelled(model: Path, out: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    shutil.copytree(model, out)
    config = config_of(out)
    change(config)
    (out / "config.json").write_text(json.dumps(config, indent=2))
    return out


def logits(folder: Path, length: int = 40) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.randint(3, 90, (2, length), generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        return model(ids).logits


def theory(base: float, d: int) -> list[float]:
    return [base ** (-2 * i / d) for i in range(d // 2)]


def test_the_real_model_keeps_its_bytes_and_says_the_new_positions(stories: Path, tmp_path: Path) -> None:
    out = extended(stories, tmp_path / "out", rope_base=500_000, max_length=2048)
    assert (out / "model.safetensors").read_bytes() == (stories / "model.safetensors").read_bytes()
    before, after = config_of(stories), config_of(out)
    assert list(after) == list(before)
    assert {k: v for k, v in after.items() if before[k] != v} == {
        "max_position_embeddings": 2048, "rope_parameters": {"rope_theta": 500_000.0, "rope_type": "default"},
    }  # fmt: skip
    assert (out / "generation_config.json").read_bytes() == (stories / "generation_config.json").read_bytes()
    old, new = ((f / "tokenizer_config.json").read_text() for f in (stories, out))
    assert new == old.replace("512", "2048") != old
    report = verify(out, function=True)
    assert report["holds"] and {c["check"] for c in report["checks"]} >= {
        "every tensor is the parent's, byte for byte", "inverse frequencies are base^(-2i/d)",
        "logits at all positions are finite",
    }  # fmt: skip
    assert not torch.equal(logits(out), logits(stories))


def test_with_the_same_base_the_logits_have_the_same_bits(stories: Path, tmp_path: Path) -> None:
    out = extended(stories, tmp_path / "out", rope_base=10_000, max_length=1024)
    assert torch.equal(logits(out, 500), logits(stories, 500))
    assert bool(logits(out, 1024).isfinite().all())


@pytest.mark.parametrize("base", [10_000.0, 500_000.0, 5e6])
def test_frequencies_golden(stories: Path, base: float) -> None:
    """b^(-2j/d), j = 0 .. d/2 - 1, of arXiv 2309.16039, section 4.1; the first is 1 whatever the base."""
    config = changed(config_of(stories), Wanted(base, None), "c").config
    (values,) = inverse_frequencies(config, "c").values()
    assert values[0] == 1 and values == pytest.approx(theory(base, 8), rel=2e-6)


@pytest.mark.parametrize(
    "family", ["qwen2", "gpt_neox", "phi", "smollm3", "falcon", "deepseek_v3", "gpt_oss", "cohere2"]
)
def test_families_with_one_rotation(tiny: Tiny, tmp_path: Path, family: str) -> None:
    scaling = {"rope_scaling": "none"} if family == "gpt_oss" else {}  # yarn by default
    out = extended(tiny(family), tmp_path / "out", rope_base=1e7, max_length=512, **scaling)
    assert read_positions(config_of(out)).rope["all"]["rope_theta"] == 1e7
    assert verify(out, function=True)["holds"]
    assert bool(logits(out, 400).isfinite().all())


def test_partial_rotation_counts_the_turned_part_only(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("gpt_neox", rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5})
    out = extended(model, tmp_path / "out", rope_base=500_000)
    (values,) = inverse_frequencies(config_of(out), "c").values()
    assert values == pytest.approx(theory(500_000, 4), rel=2e-6)  # head of 8, half of it turned
    assert config_of(out)["rope_parameters"]["partial_rotary_factor"] == 0.5


@pytest.mark.parametrize("family", ["gemma3_text", "olmo3"])
def test_local_blocks_are_left(tiny: Tiny, tmp_path: Path, family: str) -> None:
    out = extended(tiny(family), tmp_path / "out", rope_base=8e6, max_length=1024)
    old, new = (inverse_frequencies(config_of(f), "c") for f in (tiny(family), out))
    assert new["sliding_attention"] == old["sliding_attention"]
    assert new["full_attention"] == pytest.approx(theory(8e6, 8), rel=2e-6)
    lineage = Checkpoint.open(out).lineage
    assert lineage is not None and lineage.context is not None and lineage.context.left == ["sliding_attention"]
    names = {c["check"]: c["holds"] for c in verify(out, function=True)["checks"]}
    assert names["inverse frequencies of sliding_attention blocks are the parent's"]
    assert all(names.values())


def older(config: dict[str, Any]) -> None:
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope if rope["rope_type"] != "default" else None


def old_neox(config: dict[str, Any]) -> None:
    rope = config.pop("rope_parameters")
    config |= {"rotary_emb_base": rope["rope_theta"], "rotary_pct": rope["partial_rotary_factor"]}


def old_gemma(config: dict[str, Any]) -> None:
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope["full_attention"]["rope_theta"]
    config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]


LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip


@pytest.mark.parametrize("scaling", [None, "none", "linear:4", "yarn:4", "llama3:8"])
@pytest.mark.parametrize(
    ("family", "spell", "more"),
    [
        ("llama", older, {}),
        ("llama", older, {"rope_parameters": LLAMA3}),
        ("qwen2", older, {}),
        ("gpt_neox", old_neox, {}),
        ("gemma3_text", old_gemma, {}),
    ],
    ids=["llama", "llama3", "qwen2", "gpt_neox", "gemma3"],
)
def test_both_spellings_load_the_same(
    tiny: Tiny, family: str, spell: Callable[[dict[str, Any]], None], more: dict[str, Any], scaling: str | None
) -> None:
    """The old spelling stays the old one, so that older readers see the new base too."""
    new_form = config_of(tiny(family, **more))
    old_form = json.loads(json.dumps(new_form))
    spell(old_form)
    original = 64 if more else 128  # the length before any scaling, of which yarn has a multiple
    wanted = Wanted(1e6, 4 * original, scaling)
    one, other = changed(new_form, wanted, "c"), changed(old_form, wanted, "c")
    assert one.before == other.before and one.after == other.after
    assert inverse_frequencies(one.config, "c") == inverse_frequencies(other.config, "c")
    assert "rope_parameters" not in other.config and 1e6 in other.config.values()
    assert json.loads(json.dumps(new_form)) == new_form and new_form["max_position_embeddings"] == 128


def test_scalings_by_the_formula(stories: Path, tmp_path: Path) -> None:
    out = extended(stories, tmp_path / "out", max_length=2048, rope_scaling="linear:4")
    (values,) = inverse_frequencies(config_of(out), "c").values()
    assert values == pytest.approx([v / 4 for v in theory(1e4, 8)], rel=2e-6)
    assert verify(out, function=True)["holds"]
    again = extended(out, tmp_path / "again", rope_scaling="none")
    assert config_of(again)["rope_parameters"] == config_of(stories)["rope_parameters"]


def test_linking_copies_nothing(stories: Path, tmp_path: Path) -> None:
    shutil.copytree(stories, tmp_path / "m")
    out = extended(tmp_path / "m", tmp_path / "out", rope_base=1e6, link=True)
    assert (out / "model.safetensors").samefile(tmp_path / "m" / "model.safetensors")
    assert verify(out, function=True)["holds"]


def test_a_tensor_or_a_base_that_was_changed_is_found(stories: Path, tmp_path: Path) -> None:
    out = extended(stories, tmp_path / "out", rope_base=500_000)
    config = config_of(out)
    config["rope_parameters"]["rope_theta"] = 400_000.0
    (out / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    found = {c["check"]: c["holds"] for c in verify(out, function=True)["checks"]}
    assert not found["config.json is the parent's with other positions"] and not found["bytes of config.json"]
    assert found["every tensor is the parent's, byte for byte"]


@pytest.mark.parametrize(
    ("family", "settings", "error", "words"),
    [
        ("gpt2", {"rope_base": 5e5}, SurgeonError, "gpt2 has no rotary parameters"),
        ("opt", {"max_length": 4096}, SurgeonError, "no rotary parameters"),
        ("bloom", {"max_length": 4096}, SurgeonError, "no rotary parameters"),
        ("gptj", {"rope_base": 5e5}, SurgeonError, "no rotary parameters"),
        ("falcon_seq", {"rope_base": 5e5}, SurgeonError, "ALiBi"),
        ("llama", {}, UsageError, "nothing is to be changed"),
        ("llama", {"max_length": 127}, UsageError, "fewer than the 128"),
        ("llama", {"rope_base": 9999}, UsageError, "below the present 10,000"),
        ("llama", {"rope_scaling": "ntk:4"}, UsageError, "no rotary scaling 'ntk'"),
        ("llama", {"rope_scaling": "longrope"}, UsageError, "searched factor"),
        ("llama", {"rope_scaling": "yarn"}, UsageError, "factor of 1 or more"),
        ("llama", {"rope_scaling": "linear:0.5"}, UsageError, "factor of 1 or more"),
        ("llama", {"rope_scaling": "yarn:3", "max_length": 512}, SurgeonError, "does not match"),
        ("llama", {"rope_scaling": "llama3:8"}, SurgeonError, "must be less than max_position_embeddings"),
        ("phi3", {"rope_scaling": "linear:4"}, SurgeonError, "one of .'longrope'."),
        ("gemma4_text", {"rope_scaling": "none"}, SurgeonError, "take no other scaling"),
        ("gpt_oss", {"max_length": 4096}, UsageError, "has the rotary scaling yarn"),
    ],
)
def test_refusals(
    tiny: Tiny, tmp_path: Path, family: str, settings: Any, error: type[SurgeonError], words: str
) -> None:
    for _ in range(2):  # what transformers warns of once in a process is refused each time
        with pytest.raises(error, match=words) as refused:
            plan_extend_context(ExtendContextSettings(model=str(tiny(family)), out=tmp_path / "out", **settings))
        assert refused.value.where and refused.value.hint
    assert not (tmp_path / "out").exists()


def test_a_lower_base_can_be_meant(stories: Path, tmp_path: Path) -> None:
    out = extended(stories, tmp_path / "out", rope_base=5000, lower_base=True)
    assert read_positions(config_of(out)).rope["all"]["rope_theta"] == 5000


def test_granularity_of_the_paper(tiny: Tiny) -> None:
    """Xiong et al. 2023 (arXiv 2309.16039), appendix B: how far one step turns on average, for d -> infinity 1/ln b
    with base 500,000 (0.0762), and 1/(4 ln b) with base 10,000 and positions divided by 4 (0.0271)."""
    config = config_of(tiny("llama")) | {"head_dim": 4096}

    def granularity(wanted: Wanted) -> float:
        values = inverse_frequencies(changed(config, wanted, "c").config, "c")["all"]
        return (sum(values) - values[0] / 2) / len(values)  # the integral, less what a sum from the left adds

    assert round(granularity(Wanted(base=500_000)), 4) == 0.0762
    assert round(granularity(Wanted(scaling="linear:4", length=512)), 4) == 0.0271
