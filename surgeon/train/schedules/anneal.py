"""The fall at the end alone: what a run does that goes on from the constant phase of another."""

from __future__ import annotations

from surgeon.errors import UsageError
from surgeon.train.decay import Shape, decayed
from surgeon.train.phases import progress


def anneal(
    step: int, total: int, *, start: int = 0, start_ratio: float = 1.0, min_ratio: float = 0.01,
    shape: Shape = "exponential",
) -> float:  # fmt: skip
    """From `start_ratio` of the peak at step `start` down to exactly `min_ratio` of it at the last step.

    exponential: eta_const (eta_min / eta_const)^((n - n_d) / (n_end - n_d)); the other shapes are those of `wsd`.
    start: steps of the run before, which were done at a constant rate; at most one less than the total.
    Result: factor of the peak learning rate, in [0, 1]. `surgeon cpt anneal` sets all of it.
    Source: Singh et al. 2025 (2503.02844), the annealing phase; Haegele et al. 2024 (2405.18392), sqrt
    """
    if not 0 <= start < total:
        raise UsageError(
            f"a decay from step {start} on does not fit into a run of {total} steps", "--option start", "begin earlier"
        )
    if not 0 < start_ratio <= 1:
        raise UsageError(f"{start_ratio:g} is no share of the peak", "--option start_ratio", "give one up to 1")
    return decayed(progress(step, start, total), start_ratio, min_ratio, shape)
