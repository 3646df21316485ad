"""What PEFT gets wrong, with the wrong number, beside the refusal or the right number here.

A test that fails because PEFT's number has become right says that the refusal can go.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny
import torch
from adapter_models import attach, close, fold, logits, plain, trained, with_peft
from safetensors.torch import load_file, save_file

from surgeon.adapters.load import put_on
from surgeon.errors import SurgeonError


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference, of logits whose scale is a few units."""
    return float((a - b).abs().max())


@pytest.mark.parametrize("targets", [["embed_tokens"], ["lm_head"], ["embed_tokens", "lm_head"]])
def test_a_merge_of_tied_matrices(targets: list[str], tmp_path: Path) -> None:
    """The two matrices are one, and PEFT adds to it what it had added to one of them only, or twice."""
    from peft import LoraConfig, get_peft_model

    model = tiny.build("qwen3", tmp_path / "model")
    moved = trained(get_peft_model(plain(model), LoraConfig(r=4, target_modules=targets)).eval())
    computed = logits(moved)
    assert apart(logits(moved.merge_and_unload()), computed) > 0.5
    words = {"embed_tokens": "embedding", "lm_head": "head"}
    with pytest.raises(SurgeonError, match="share one matrix"):
        attach(model, tmp_path / "out", targets=",".join(words[t] for t in targets))


def test_one_saved_matrix_of_two_tied_ones(tmp_path: Path) -> None:
    """Saved is the embedding; the head comes from the base, whose new rows another run has initialised otherwise."""
    from peft import LoraConfig, get_peft_model

    model = tiny.build("qwen3", tmp_path / "model")
    config = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    moved = trained(get_peft_model(plain(model), config).eval())
    moved.save_pretrained(tmp_path / "adapter")
    other = tmp_path / "other"
    shutil.copytree(model, other)
    held = load_file(other / "model.safetensors")
    held["model.embed_tokens.weight"][90:] += 0.3
    save_file(held, other / "model.safetensors", {"format": "pt"})
    assert apart(logits(with_peft(other, tmp_path / "adapter")), logits(moved)) > 0.1
    option = {"type": "lora", "config": '{"modules_to_save": ["embed_tokens"]}'}
    with pytest.raises(SurgeonError, match="only the embedding of a tied model"):
        attach(model, tmp_path / "out", kind="peft", option=option)


def test_layer_replication(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    config = {"r": 4, "target_modules": ["q_proj"], "layer_replication": [[0, 3], [1, 4]]}
    model = tiny.build("llama", tmp_path / "model")
    moved = trained(get_peft_model(plain(model), LoraConfig(**config)).eval())
    computed = logits(moved)
    assert apart(logits(moved.merge_and_unload()), computed) > 0.1
    with pytest.raises(IndexError):
        logits(get_peft_model(plain(tiny.build("qwen2", tmp_path / "qwen2")), LoraConfig(**config)))
    option = {"type": "lora", "config": '{"layer_replication": [[0, 3], [1, 4]]}'}
    with pytest.raises(SurgeonError, match="surgeon expand-layers"):
        attach(model, tmp_path / "out", kind="peft", option=option)


@pytest.mark.parametrize("how", ["linear", "cat", "svd"])
def test_a_weighted_sum_of_rank_stabilised_adapters(how: str, tmp_path: Path) -> None:
    """One adapter with the weight 1 is not itself: PEFT leaves the root of the rank out. Folded it is."""
    model = tiny.build("llama", tmp_path / "model")
    moved = trained(
        with_peft(model, attach(model, tmp_path / "fresh", rank=16, alpha=16, scaling="rank-stabilized")), 0.02
    )
    moved.save_pretrained(tmp_path / "adapter")
    computed = logits(moved)
    moved.add_weighted_adapter(["default"], [1.0], "sum", combination_type=how)
    moved.set_adapter("sum")
    assert apart(logits(moved), computed) > 0.1
    fold(model, tmp_path / "adapter", tmp_path / "folded", weight=1.0)
    assert close(logits(plain(tmp_path / "folded")), computed)


def test_olora_on_transposed_matrices(tmp_path: Path) -> None:
    """GPT-2 stores [in, out]: PEFT's factors have the wrong shapes, and cannot be loaded again."""
    from peft import LoraConfig, get_peft_model

    model = tiny.build("gpt2", tmp_path / "model")
    config = LoraConfig(r=4, init_lora_weights="olora", target_modules=["c_fc"], fan_in_fan_out=True)
    wrapped = get_peft_model(plain(model), config)
    factor = wrapped.base_model.model.transformer.h[0].mlp.c_fc.lora_A["default"].weight
    assert factor.shape == (4, 128), "the matrix has 32 inputs"
    with pytest.raises(SurgeonError, match="OLoRA takes them for"):
        attach(model, tmp_path / "out", kind="olora", rank=4, targets="mlp.up")


def test_a_randomised_decomposition_of_pissa(tmp_path: Path) -> None:
    """Drawn anew where the folder is opened, and taken out of the weights in place of the one that was trained."""
    from peft import LoraConfig, get_peft_model

    model = tiny.build("llama", tmp_path / "model")
    config = LoraConfig(r=4, init_lora_weights="pissa_niter_1", target_modules=["q_proj", "down_proj"])
    made = get_peft_model(plain(model), config).eval()
    assert apart(logits(made), logits(plain(model))) < 1e-4
    made.save_pretrained(tmp_path / "adapter")
    torch.manual_seed(1)
    assert apart(logits(with_peft(model, tmp_path / "adapter")), logits(made)) > 0.1
    with pytest.raises(SurgeonError, match="draws a randomised decomposition anew"):
        option = {"type": "LORA", "config": '{"init_lora_weights": "pissa_niter_1"}'}
        attach(model, tmp_path / "out", kind="peft", option=option)
    with pytest.raises(SurgeonError, match=r"its start is not there"):
        fold(model, tmp_path / "adapter", tmp_path / "out")


def test_dora_on_an_identity_block(stories: Path, tmp_path: Path) -> None:
    """Rows of zeros have no direction: PEFT divides by their length."""
    from peft import LoraConfig, get_peft_model

    from surgeon.expand.plan import ExpandSettings, plan_expand
    from surgeon.ops.execute import execute

    deep = tmp_path / "deep"
    execute(plan_expand(ExpandSettings(model=str(stories), out=deep, at=[1])), deep)
    wrapped = get_peft_model(plain(deep), LoraConfig(r=2, use_dora=True, target_modules=["o_proj"]))
    assert logits(wrapped.eval()).isnan().any()
    with pytest.raises(SurgeonError, match=r"layers\.2\.mlp\.down_proj has rows of zeros"):
        attach(deep, tmp_path / "adapter", kind="dora", rank=2)
    attach(deep, tmp_path / "adapter", kind="dora", rank=2, targets="attention.q,mlp.up")


def test_osf_under_adam_moves_what_it_should_keep(tmp_path: Path) -> None:
    """PEFT projects the gradient; Adam divides it element by element, and the kept subspace moves."""
    model = tiny.build("llama", tmp_path / "model")
    adapter = attach(model, tmp_path / "adapter", kind="osf", rank=16, targets="mlp.up")
    wrapped = put_on(plain(model), model, adapter, trainable=True)
    layer = wrapped.base_model.model.model.layers[0].mlp.up_proj
    weight = layer.get_base_layer().weight.detach().double()
    u, s, v = torch.linalg.svd(weight, full_matrices=False)

    def kept() -> torch.Tensor:
        whole = weight + layer.get_delta_weight("default").detach().double()
        return u[:, :16].T @ whole @ v[:16].T - torch.diag(s[:16])

    def steps(optimizer: torch.optim.Optimizer) -> float:
        ids = torch.randint(3, 90, (4, 24), generator=torch.Generator().manual_seed(1))
        for _ in range(20):
            wrapped(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return float(kept().norm() / s[:16].norm())

    trainable = [p for p in wrapped.parameters() if p.requires_grad]
    assert float(kept().norm() / s[:16].norm()) < 1e-5
    assert steps(torch.optim.SGD(trainable, lr=1e-2)) < 1e-4
    assert steps(torch.optim.Adam(trainable, lr=1e-2)) > 1e-2
