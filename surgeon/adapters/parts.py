"""What an adapter is put on, and what a kind of adapter makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from surgeon.ops.plan import OutTensor


@dataclass(frozen=True, slots=True)
class Target:
    """A linear module: its name in the module tree of transformers, where it stands, how many inputs and outputs."""

    module: str
    tensor: str
    block: int
    part: str
    role: str
    num_in: int
    num_out: int


@dataclass(frozen=True)
class Parts:
    """tensors: of adapter_model.safetensors, in PEFT's names. config: the method's own keys of adapter_config.json."""

    tensors: tuple[OutTensor, ...]
    config: Mapping[str, Any]
