"""What a run has come to so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Outcome:
    """What a run came to. tokens: without padding. evals: {step, name, nats_per_token, bits_per_byte}."""

    tokens: int = 0
    final_loss: float | None = None
    tokens_per_second: float | None = None
    mfu: float | None = None
    evals: list[dict[str, Any]] = field(default_factory=list)
