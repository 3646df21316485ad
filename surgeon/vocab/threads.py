"""The same bytes for any number of threads: each piece of work is done by one thread, several pieces at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

Spread = Callable[[Callable[[Any], Any], Iterable[Any]], list[Any]]


@contextmanager
def spread() -> Iterator[Spread]:
    """`run(function, items)` gives the results in order, on as many workers as torch had threads.

    Inside, torch itself computes on one thread, for a sum split over threads has other roundings than one that is
    not: what depends only on an item then has the same bytes for any number of workers. numpy's and scipy's own
    BLAS is not held to it: use torch for matrix products.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            yield lambda function, items: list(pool.map(function, items))
    finally:
        torch.set_num_threads(threads)
