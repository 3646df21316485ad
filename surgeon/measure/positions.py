"""Loss by position: how well a token is predicted, by how many tokens stand before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgeon.data.items import Item, Window
from surgeon.data.pack import IGNORED
from surgeon.errors import SurgeonError, UsageError

FIRST = 32  # the end of the first bucket; each further one ends at twice that


@dataclass(frozen=True, slots=True)
class Bucket:
    """Predictions with start to stop - 1 tokens before them in their window. nats_per_token: their mean, None where
    nothing is scored there."""

    start: int
    stop: int
    tokens: int
    nats_per_token: float | None


def edges_of(context: int, positions: Sequence[int] | None = None) -> tuple[int, ...]:
    """The ends of the buckets, ascending, the last one the context: `positions`, or 32, 64, 128, ...

    Raises UsageError where they do not ascend or lie beyond the context.
    """
    if positions is None:
        positions = [FIRST << n for n in range(context.bit_length()) if FIRST << n < context]
    if list(positions) != sorted(set(positions)) or (positions and positions[0] < 2):
        raise UsageError(f"the positions {list(positions)} do not ascend from 2", "--positions", "such as 32,64,128")
    if positions and positions[-1] > context:
        raise UsageError(
            f"the position {positions[-1]} lies beyond the context of {context} tokens",
            "--positions",
            "leave it out, or measure with a longer --context",
        )
    return tuple(positions) if positions and positions[-1] == context else (*positions, context)


def full_windows(items: Sequence[Item], context: int) -> Iterator[Window]:
    """Consecutive windows of exactly `context` tokens, each with the start of its document before it; what does not
    fill one is left out, so that every position is measured on the same windows. No token is in two of them."""
    for number, item in enumerate(items):
        start = item.ids[: item.num_start]
        begin, room = item.num_start, context - item.num_start
        while room > 0 and begin + room <= len(item.ids):
            ids = np.concatenate([start, item.ids[begin : begin + room]])
            scored = item.scored[begin : begin + room]
            labels = np.full(context, IGNORED, dtype=np.int64)
            # the token at place p is the label of place p - 1; the very first one follows nothing
            places = np.arange(item.num_start, context)[scored]
            places = places[places > 0]
            labels[places - 1] = ids[places]
            if len(places):
                yield Window(ids, labels, number)
            begin += room


def by_position(nats: NDArray[np.float64], labels: NDArray[np.int64], edges: Sequence[int]) -> list[Bucket]:
    """nats, labels: [windows, context], of what is predicted at each place from the tokens up to it, IGNORED where
    nothing is scored: at place p there are p + 1 tokens before the prediction. Sums in float64."""
    found, start = [], 0
    scored = labels != IGNORED
    before = np.arange(1, labels.shape[1] + 1)
    for stop in edges:
        chosen = scored & ((before >= start) & (before < stop))
        count = int(chosen.sum())
        found.append(Bucket(start, stop, count, float(nats[chosen].sum()) / count if count else None))
        start = stop
    return found


def measure_positions(
    model: Any, items: Sequence[Item], context: int, positions: Sequence[int] | None, where: str
) -> dict[str, Any]:
    """{"context", "documents", "windows", "buckets": [{"start", "stop", "tokens", "nats_per_token"}]} of a loaded
    model, probabilities from logits in float32. Raises SurgeonError where no document fills a window."""
    import torch
    import torch.nn.functional as F  # noqa: N812

    from surgeon.loading import LOGIT_BUDGET

    edges = edges_of(context, positions)
    held = list(full_windows(items, context))
    if not held:
        raise SurgeonError(
            f"no document of {len(items)} fills a window of {context} tokens",
            where,
            "give longer documents, more of them, or a shorter --context",
        )
    device = next(model.parameters()).device
    rows = max(1, LOGIT_BUDGET[device.type] // model.config.get_text_config().vocab_size // context)
    labels = np.stack([window.labels for window in held])
    nats = np.zeros(labels.shape)
    with torch.no_grad():
        for at in range(0, len(held), rows):
            ids = torch.from_numpy(np.stack([window.ids for window in held[at : at + rows]])).to(device)
            targets = torch.from_numpy(labels[at : at + rows]).to(device)
            logits = model(input_ids=ids, use_cache=False).logits.float()
            lost = F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=IGNORED, reduction="none")
            nats[at : at + rows] = lost.double().cpu().numpy()
    return {
        "context": context,
        "documents": len({window.item for window in held}),
        "windows": len(held),
        "buckets": [
            {"start": b.start, "stop": b.stop, "tokens": b.tokens, "nats_per_token": b.nats_per_token}
            for b in by_position(nats, labels, edges)
        ],
    }
