"""What a writing operation tells of itself."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Result:
    """The JSON of every writing command. bytes_written: of the tensors, without linked shards; peak_rss_bytes: of this
    process so far."""

    out: str
    operation: str
    tensors: int
    parameters: int
    bytes_written: int
    seconds: float
    peak_rss_bytes: int
    plan_digest: str
    verified: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)
