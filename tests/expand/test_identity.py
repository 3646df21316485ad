"""The promise of expand-layers: a deeper model that computes bit for bit what it computed before."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import FAMILIES, VOCAB

from surgeon.arch.family import family_of
from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError
from surgeon.expand.plan import ExpandSettings, plan_expand
from surgeon.ops.execute import execute

Tiny = Callable[..., Path]
POST_NORM = ["gemma2", "gemma3_text", "olmo2", "olmo3", "glm4", "exaone4"]
# checkpoints hold one matrix an expert, transformers one tensor a block; both are read
FUSED = ["mixtral", "qwen3_moe", "qwen2_moe", "deepseek_v3", "olmoe", "glm4_moe", "qwen3_next"]
IDS = torch.randint(3, VOCAB, (2, 24), generator=torch.Generator().manual_seed(1))


# of the same mechanisms as another family in the list
VARIANTS = [
    "llama_bias", "gpt_neox_seq", "falcon_seq", "falcon_new", "deepseek_v2", "granitemoe", "granitemoeshared", "arcee",
    "ernie4_5", "helium", "seed_oss", "ministral", "gpt_bigcode", "glm", "granite", "nemotron", "gemma", "mistral",
]  # fmt: skip
BY_COST = [pytest.param(f, marks=[pytest.mark.long] if f in VARIANTS else []) for f in FAMILIES]


def expanded(model: Path, out: Path, **options: Any) -> Path:
    plan = plan_expand(ExpandSettings(model=str(model), out=out, **options))
    execute(plan, out, threads=1)
    return out


def load_model(folder: Path, dtype: str) -> Any:
    """In plain transformers, which must find every tensor it wants and no other."""
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


def outputs(folder: Path, dtype: str = "float32") -> tuple[torch.Tensor, torch.Tensor]:
    """Logits on a probe longer than the windows of the tiny models, and greedy generation with the cache."""
    model = load_model(folder, dtype)
    with torch.inference_mode():
        generated = model.generate(
            IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=10, do_sample=False, use_cache=True
        )
        return model(IDS).logits, generated


@pytest.mark.parametrize("family", BY_COST)
def test_auto_is_the_identity_and_copy_is_not(tiny: Tiny, tmp_path: Path, family: str) -> None:
    model = tiny(family)
    last = int(json.loads((model / "config.json").read_text())[family_of(Checkpoint.open(model)).depth_key]) - 1
    places = [0, 2, 2, last]
    auto = expanded(model, tmp_path / "auto", at=places)
    for dtype in ("float32", "bfloat16"):
        logits, generated = outputs(model, dtype)
        assert bool(logits.isfinite().all()) and logits.std() > 0.1
        new_logits, new_generated = outputs(auto, dtype)
        assert torch.equal(logits, new_logits)
        assert torch.equal(generated, new_generated)
    copied = load_model(expanded(model, tmp_path / "copy", at=places, fill="copy"), "bfloat16")
    with torch.inference_mode():
        assert not torch.equal(logits, copied(IDS).logits)


@pytest.mark.parametrize("family", ["gemma3_text", "olmo3", "qwen3_moe", "gpt2"])
def test_a_checkpoint_stored_in_bfloat16(tiny: Tiny, tmp_path: Path, family: str) -> None:
    model = tiny(family, dtype="bfloat16")
    deeper = expanded(model, tmp_path / "out", add=3)
    assert {str(t.dtype) for t in load_file(deeper / "model.safetensors").values()} == {"torch.bfloat16"}
    for dtype in ("float32", "bfloat16"):
        assert torch.equal(outputs(model, dtype)[0], outputs(deeper, dtype)[0])


@pytest.mark.parametrize("family", POST_NORM)
def test_zero_is_exact_for_post_norm_families_too_when_asked_for(tiny: Tiny, tmp_path: Path, family: str) -> None:
    deeper = expanded(tiny(family), tmp_path / "out", at=[1, 3], fill="zero")
    for dtype in ("float32", "bfloat16"):
        assert torch.equal(outputs(tiny(family), dtype)[0], outputs(deeper, dtype)[0])


@pytest.mark.parametrize("family", POST_NORM)
def test_the_gradient_of_the_first_step_stays_small_with_norm_gain(tiny: Tiny, tmp_path: Path, family: str) -> None:
    """Why auto does not zero the writers there: the norm behind them has the derivative gain / sqrt(eps) at zero."""
    norms = {}
    for fill in ("auto", "zero"):
        model = load_model(expanded(tiny(family), tmp_path / fill, at=[1], fill=fill), "float32").train()
        model(IDS, labels=IDS).loss.backward()
        new = [p.grad.norm() for n, p in model.named_parameters() if ".layers.2." in n and p.grad is not None]
        norms[fill] = float(torch.stack(new).norm())
    assert norms["auto"] > 0 and norms["zero"] > 20 * norms["auto"]


@pytest.mark.parametrize("layout", ["interleave", "block"])
def test_the_real_model(stories: Path, tmp_path: Path, layout: str) -> None:
    text = torch.tensor([[1, *range(30, 60)]])
    options = {"start": 1, "stop": 4}
    deeper = expanded(stories, tmp_path / "out", select="range", option=options, layout=layout)
    for dtype in ("float32", "bfloat16"):
        before, after = load_model(stories, dtype), load_model(deeper, dtype)
        with torch.inference_mode():
            assert torch.equal(before(text).logits, after(text).logits)
            assert torch.equal(
                before.generate(text, max_new_tokens=30, do_sample=False),
                after.generate(text, max_new_tokens=30, do_sample=False),
            )
    assert load_model(deeper, "float32").config.num_hidden_layers == 8


def test_an_expanded_model_can_be_expanded_again(stories: Path, tmp_path: Path) -> None:
    once = expanded(stories, tmp_path / "once", add=2)
    twice = expanded(once, tmp_path / "twice", at=[3, 6])
    text = torch.tensor([[1, *range(30, 60)]])
    with torch.inference_mode():
        assert torch.equal(load_model(stories, "float32")(text).logits, load_model(twice, "float32")(text).logits)


def test_rules_by_period_of_an_old_config_are_kept(tiny: Tiny, tmp_path: Path) -> None:
    """Gemma 2 as first released has no layer_types: window and full alternate with the block's number."""
    folder = tmp_path / "old"
    folder.mkdir()
    for file in tiny("gemma2").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    del config["layer_types"]
    (folder / "config.json").write_text(json.dumps(config))
    deeper = expanded(folder, tmp_path / "out", at=[0])
    assert torch.equal(outputs(folder)[0], outputs(deeper)[0])


def test_experts_in_every_second_block(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("qwen3_moe", decoder_sparse_step=2, mlp_only_layers=[])
    deeper = expanded(model, tmp_path / "out", at=[0, 1, 3])
    assert torch.equal(outputs(model)[0], outputs(deeper)[0])


def fused(model: Path, folder: Path) -> Path:
    """The same checkpoint with the experts of a block in one tensor, named as transformers names them in memory."""
    state = {name: tensor.contiguous() for name, tensor in load_model(model, "float32").state_dict().items()}
    folder.mkdir()
    (folder / "config.json").write_bytes((model / "config.json").read_bytes())
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize("family", FUSED)
def test_experts_in_one_tensor(tiny: Tiny, tmp_path: Path, family: str) -> None:
    model = fused(tiny(family), tmp_path / "fused")
    names = load_file(model / "model.safetensors")
    assert any(name.endswith("experts.gate_up_proj") for name in names)
    assert not any(".experts.0." in name for name in names)
    deeper = expanded(model, tmp_path / "out", at=[0, 2, 3])
    for dtype in ("float32", "bfloat16"):
        assert torch.equal(outputs(model, dtype)[0], outputs(deeper, dtype)[0])


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", ["llama", "gemma2", "olmo3", "qwen3_moe", "granitemoehybrid", "opt"])
def test_tied_and_untied_in_several_shards(tiny: Tiny, tmp_path: Path, family: str, tied: bool) -> None:
    model = tiny(family, tie_word_embeddings=tied)
    sharded = tmp_path / "sharded"
    load_model(model, "float32").save_pretrained(sharded, max_shard_size="30KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    deeper = expanded(sharded, tmp_path / "out", at=[1, 3])
    assert json.loads((deeper / "config.json").read_text())["tie_word_embeddings"] is tied
    for before, after in zip(outputs(model), outputs(deeper), strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize(
    ("family", "config", "where"),
    [
        ("deepseek_v3", {"first_k_dense_replace": 1}, "first_k_dense_replace"),
        ("glm4_moe", {"first_k_dense_replace": 1}, "first_k_dense_replace"),
        ("ernie4_5_moe", {"moe_layer_interval": 2, "moe_layer_start_index": 0}, "moe_layer_interval"),
        ("ernie4_5_moe", {"moe_layer_start_index": 1, "moe_layer_end_index": 3}, "moe_layer_start_index"),
        ("opt", {"do_layer_norm_before": False}, "do_layer_norm_before"),
    ],
)
def test_what_no_configuration_can_say_is_refused(
    tiny: Tiny, tmp_path: Path, family: str, config: dict[str, Any], where: str
) -> None:
    """Dense block 0 and sparse block 1 repeated as a run give dense, sparse, dense, sparse."""
    model = tiny(family, **config)
    with pytest.raises(SurgeonError) as caught:
        expanded(model, tmp_path / "out", select="range", option={"start": 0, "stop": 2}, layout="block")
    assert where in caught.value.where and not (tmp_path / "out").exists()


def test_gpt2_as_on_the_hub_without_prefix_and_with_buffers(tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    folder.mkdir()
    (folder / "config.json").write_bytes((tiny("gpt2") / "config.json").read_bytes())
    tensors = {n.removeprefix("transformer."): t for n, t in load_file(tiny("gpt2") / "model.safetensors").items()}
    tensors |= {f"h.{i}.attn.bias": torch.ones(1, 1, 8, 8).tril() for i in range(4)}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    deeper = expanded(folder, tmp_path / "out", add=2)
    assert torch.equal(outputs(tiny("gpt2"))[0], outputs(folder)[0])
    assert torch.equal(outputs(folder)[0], outputs(deeper)[0])


def test_bloom_as_on_the_hub_without_prefix(tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    folder.mkdir()
    (folder / "config.json").write_bytes((tiny("bloom") / "config.json").read_bytes())
    tensors = {n.removeprefix("transformer."): t for n, t in load_file(tiny("bloom") / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    deeper = expanded(folder, tmp_path / "out", at=[0, 3])
    assert torch.equal(outputs(tiny("bloom"))[0], outputs(folder)[0])
    assert torch.equal(outputs(folder)[0], outputs(deeper)[0])


def test_a_windowed_qwen2_with_an_alternating_boundary(tiny: Tiny, tmp_path: Path) -> None:
    """Full blocks 0, 1 and windowed 2, 3; the run 1..2 repeated gives full, full, window, full, window, window."""
    model = tiny("qwen2")
    deeper = expanded(model, tmp_path / "out", select="range", option={"start": 1, "stop": 3}, layout="block")
    types = json.loads((deeper / "config.json").read_text())["layer_types"]
    assert [t.split("_")[0] for t in types] == ["full", "full", "sliding", "full", "sliding", "sliding"]
    assert torch.equal(outputs(model)[0], outputs(deeper)[0])


@pytest.mark.material
def test_the_larger_real_model_in_its_own_dtype(material: Path, tmp_path: Path) -> None:
    base = material / "models" / "base"
    deeper = expanded(base, tmp_path / "out", add=3)
    text = torch.tensor([[1, *range(300, 360)]])
    for dtype in ("float32", "bfloat16"):
        with torch.inference_mode():
            assert torch.equal(load_model(base, dtype)(text).logits, load_model(deeper, dtype)(text).logits)
