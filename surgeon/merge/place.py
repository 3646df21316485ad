"""Where a tensor stands in the model, for values that vary over depth or parts."""

from __future__ import annotations

from dataclasses import dataclass

from surgeon.arch.family import Family


@dataclass(frozen=True, slots=True)
class Place:
    """role: as Family.role says. depth: 0 for the first block and what stands before the blocks, 1 for the last one
    and what stands behind them, evenly between."""

    role: str
    depth: float


def place_of(name: str, family: Family) -> Place:
    """The place of a tensor of this family."""
    block, role = family.unit(name).block, family.role(name)
    if block is not None:
        return Place(role, block / max(family.depth - 1, 1))
    return Place(role, 1.0 if role in ("final_norm", "head") else 0.0)


def words(role: str) -> list[str]:
    """The names that a person may call this role by, the most exact one first: attention.q, attention; experts are
    part of the mlp too."""
    path = role.split(".")
    found = [".".join(path[:n]) for n in range(len(path), 0, -1)]
    return [*found, "mlp"] if path[0] == "moe" else found
