"""Windows of a document: every scored token in one of them, or a refusal that names the least context."""

from __future__ import annotations

import numpy as np
import pytest

from surgeon.data.items import Item, windows
from surgeon.data.pack import IGNORED
from surgeon.errors import SurgeonError


def item(length: int, num_start: int) -> Item:
    """A document whose tokens are all different, so that a label says which of them it is."""
    scored = np.arange(length) >= max(num_start, 1)
    return Item(np.arange(100, 100 + length), scored, num_start, length, length)


@pytest.mark.parametrize("num_start", [0, 1, 2, 3])
@pytest.mark.parametrize("length", [2, 5, 12, 37])
def test_every_scored_token_is_scored_once_and_the_least_context_is_the_least(length: int, num_start: int) -> None:
    least = max(2, 2 * num_start + 1)
    for context in range(least, 2 * length):
        found = list(windows([item(length, num_start)], context))
        labels = np.concatenate([w.labels[w.labels != IGNORED] for w in found])
        assert labels.tolist() == list(range(100 + max(num_start, 1), 100 + length))
        for window in found:
            assert len(window.ids) <= context
            assert window.ids[:num_start].tolist() == list(range(100, 100 + num_start))
            places = np.flatnonzero(window.labels != IGNORED)
            assert np.array_equal(window.labels[places[:-1]], window.ids[places[:-1] + 1])
    for context in range(1, least):
        if context >= length:
            continue  # the document is one window
        with pytest.raises(SurgeonError, match=f"windows of {context} tokens are too short") as caught:
            list(windows([item(length, num_start)], context))
        assert caught.value.hint == f"give a context of {least} tokens or more"
