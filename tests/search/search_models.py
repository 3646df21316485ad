"""The live model of a search beside the merges that are written, and models whose best weights are known."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from surgeon.merge.plan import align, plan_merge
from surgeon.merge.settings import MergeSettings
from surgeon.ops.execute import execute
from surgeon.search.live import Live
from surgeon.search.scores import live_model
from surgeon.search.vectors import Vectors, vectors_of

sys.path.append(str(Path(__file__).resolve().parent.parent / "merge"))
from merge_models import expanded as expanded
from merge_models import extended as extended
from merge_models import same_tensors as same_tensors
from merge_models import tensors as tensors
from merge_models import trained as trained


def opened(base: Path, add: Sequence[str | Path], out: Path, **settings: Any) -> tuple[Live, Vectors, MergeSettings]:
    """The live model of a merge whose weights are searched where none are given."""
    asked = MergeSettings(base=str(base), out=out, add=[str(a) for a in add], **settings)
    vectors = vectors_of(asked)
    ones = vectors.settings(asked, [1.0] * len(vectors.free), asked.onto)
    return live_model(asked, align(ones), plan_merge(ones)), vectors, asked


def written(vectors: Vectors, asked: MergeSettings, weights: Sequence[float], out: Path) -> Path:
    """The merge with these weights, carried out."""
    execute(plan_merge(vectors.settings(asked, weights, asked.onto)), out)
    return out


def loaded(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def logits(model: Any, ids: int = 90) -> torch.Tensor:
    """float32 [2, 20, vocabulary] on fixed tokens below `ids`."""
    tokens = torch.randint(3, ids, (2, 20), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return model(input_ids=tokens, use_cache=False).logits


def parameters(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def moved(parent: Path, out: Path, directions: Sequence[tuple[int, float]], size: float = 0.06) -> Path:
    """A copy of `parent` moved along random directions: (seed, factor) each; float32."""
    shutil.copytree(parent, out)
    held = {name: tensor.float() for name, tensor in load_file(out / "model.safetensors").items()}
    for seed, factor in directions:
        generator = torch.Generator().manual_seed(seed)
        for name, tensor in sorted(held.items()):
            held[name] = tensor + torch.randn(tensor.shape, generator=generator) * size * factor
    save_file(held, out / "model.safetensors", metadata={"format": "pt"})
    return out
