"""A decay that stops early, so that the best data, which come last, still count."""

from __future__ import annotations

from surgeon.train.schedules.wsd import wsd


def moderate_decay(
    step: int, total: int, *, warmup: float = 0.01, decay: float = 0.2, min_ratio: float = 1 / 3
) -> float:
    """Linear warm-up, the peak, then a 1-sqrt decay to exactly a third of it; for data in ascending quality.

    eta = eta_0 (1 - sqrt r) + eta_T sqrt r with eta_T = eta_0 / 3 (1e-3 of 3e-3), r from 0 to 1 over the decay.
    To be combined with an average of the last checkpoints (--keep-checkpoints 6, `surgeon average`).
    warmup, decay: share of the steps (below 1) or number of steps; how long the paper decays is not known to us, 0.2
    is that of `wsd`. Result: factor of the peak learning rate, in [0, 1].
    Source: Luo et al. 2025 (2511.18903), CDMA
    """
    return wsd(step, total, warmup=warmup, decay=decay, min_ratio=min_ratio, shape="sqrt")
