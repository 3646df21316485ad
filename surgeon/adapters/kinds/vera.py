"""VeRA: one pair of random matrices for all modules, and two vectors a module that are trained."""

from __future__ import annotations

from surgeon.adapters.kind import Kind


def vera(seed: int, *, rank: int = 256, dropout: float = 0.0, d_initial: float = 0.1) -> Kind:
    """The update is diag(b) B diag(d) A with B, A random, shared and frozen; b starts at zero, so nothing changes at
    first, d at d_initial. The random matrices are stored with the adapter: they do not depend on a generator.

    Source: Kopiczko et al. 2023 (arXiv 2310.11454), equation 2, as PEFT has it.
    """
    keys = {"r": rank, "vera_dropout": dropout, "d_initial": d_initial, "projection_prng_key": seed}
    return Kind("VERA", keys | {"save_projection": True})
