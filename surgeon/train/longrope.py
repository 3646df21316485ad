"""Rotary frequencies that the library picks by the longest text of a pass (longrope: Phi-3, MiniCPM3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from surgeon.errors import UsageError


def check_frequencies(model: Any, seq_len: int, flag: str = "--seq-len") -> None:
    """Refuse rows longer than the length from which on all texts of a pass get the frequencies of long ones: a short
    document beside a long one would not be read as it is alone. Raises UsageError."""
    turn = min(_turns(model.config.get_text_config().to_dict()), default=seq_len)
    if seq_len > turn:
        raise UsageError(
            f"a document of more than {turn} tokens changes how {type(model).__name__} reads the shorter ones beside "
            "it (longrope)",
            f"{flag} of {seq_len} tokens",
            f"give rows of at most {turn} tokens, or --packing concat, which makes all texts as long as the rows",
        )


def _turns(config: Mapping[str, Any]) -> Iterator[int]:
    """The lengths of the longropes in a configuration, which may have several, by the kind of a block."""
    rope = config.get("rope_parameters") or {}
    for held in (rope, *rope.values()):
        if isinstance(held, Mapping) and held.get("rope_type") == "longrope":
            yield int(held.get("original_max_position_embeddings") or config["original_max_position_embeddings"])
