"""What a writing operation tells of itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
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
    found: Mapping[str, Any] = field(default_factory=dict, kw_only=True)  # what the operation measured, by name

    def to_json(self) -> dict[str, Any]:
        value = dataclasses.asdict(self)
        found: dict[str, Any] = value.pop("found")
        return value | found
