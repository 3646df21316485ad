"""What a run trains, by the names and shapes of its model alone: before its weights are read, or even there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from surgeon.adapters.load import put_on_skeleton
from surgeon.checkpoint.lineage import Lineage
from surgeon.loading import context_length, load_skeleton
from surgeon.train import blocks
from surgeon.train.longrope import check_frequencies
from surgeon.train.settings import CptSettings
from surgeon.train.shape import Shape, resolve_shape
from surgeon.train.trainable import Trainable, check_trained_adapter, select


@dataclass(frozen=True)
class ByShapes:
    """skeleton: the model on the meta device without its adapter. model: with it. trainable: of `model`; None where
    the adapter is of a kind that is put on a whole model only."""

    skeleton: Any
    model: Any
    trainable: Trainable | None


def select_by_shapes(settings: CptSettings, folder: Path, adapter: Path | None, lineage: Lineage | None) -> ByShapes:
    """Raises what `select`, `put_on` and --checkpointing refuse of names and shapes."""
    check_trained_adapter(settings.train, adapter)
    skeleton = load_skeleton(folder, settings.trust_remote_code)
    model = skeleton
    if adapter is not None:  # on one of its own: the adapter changes what it is put on
        model = put_on_skeleton(load_skeleton(folder, settings.trust_remote_code), adapter)
    chosen = None if model is None else select(model, settings.train, lineage, settings.group)
    if settings.checkpointing == "blocks":
        blocks.check_checkpointing(skeleton, settings.checkpointing)
    return ByShapes(skeleton, model, chosen)


def rows_by_shapes(settings: CptSettings, skeleton: Any, device: torch.device) -> Shape:
    """The rows and steps of the run. Raises what a model's context or its rotary frequencies do not take."""
    shape = resolve_shape(settings, context_length(skeleton), device)
    if settings.packing != "concat":
        check_frequencies(skeleton, shape.seq_len, "--lengths" if shape.stages else "--seq-len")
    return shape
