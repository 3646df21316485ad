"""The model as it is before the extension, loaded only if an init or the probe asks what it computes."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from surgeon.loading import Device, load_model, resolve_device


class Body:
    """A checkpoint as a transformers model in float32, in eval mode, without gradients on its parameters."""

    def __init__(self, path: Path, device: Device = "auto") -> None:
        self.path, self.wanted = path, device

    @cached_property
    def model(self) -> Any:
        import torch

        model = load_model(self.path, device=resolve_device(self.wanted), dtype=torch.float32)
        return model.requires_grad_(False)
