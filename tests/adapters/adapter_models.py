"""Adapters for the tests: attached by surgeon, trained by chance, saved by PEFT; and what PEFT computes with them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from surgeon.adapters.attach import AttachSettings, plan_attach
from surgeon.adapters.fold import FoldSettings, plan_fold
from surgeon.ops.execute import execute
from surgeon.ops.result import Result

IDS = torch.randint(3, 90, (2, 16), generator=torch.Generator().manual_seed(0))


def attach(model: Path, out: Path, **settings: Any) -> Path:
    execute(plan_attach(AttachSettings(model=str(model), out=out, **settings)), out)
    return out


def fold(model: Path, adapter: Path, out: Path, **settings: Any) -> Result:
    return execute(plan_fold(FoldSettings(model=f"{model}+{adapter}", out=out, **settings)), out)


def plain(model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()


def with_peft(model: Path, adapter: Path) -> Any:
    """Loaded as anybody would, and no warning of missing or unexpected keys."""
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", FutureWarning)  # between peft and transformers
        warnings.filterwarnings("ignore", message=".*(tie_word_embeddings|ensure_weight_tying)")
        warnings.filterwarnings("ignore", message="You are trying to modify a model with PEFT for a second time")
        return PeftModel.from_pretrained(plain(model), adapter).eval()


def trained(wrapped: Any, size: float = 0.05) -> Any:
    """What is trained of it moved at random, as training would."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in sorted(wrapped.named_parameters()):
            if parameter.requires_grad or any(
                mark in name for mark in ("lora_", "vera_lambda", "osf_svd", "trainable")
            ):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * size)
    return wrapped


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS.to(next(model.parameters()).device)).logits


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Within 1e-5 of the logits' scale: float32 in another order of operations."""
    return bool((a - b).abs().max() <= 1e-5 * max(1.0, float(b.abs().max())))
