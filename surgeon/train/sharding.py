"""What is gathered together where several processes share a model: by the plan that transformers has for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

KEPT, FREED = "keep_full_weight", "free_full_weight"


@dataclass(frozen=True)
class Unit:
    """Modules whose tensors are gathered by one call. freed: let go of behind the forward pass and gathered again on
    the way back; else held until then."""

    modules: tuple[nn.Module, ...]
    freed: bool = True


def units(model: Any, blocks: Iterable[nn.Module]) -> list[Unit]:
    """The parts of a model in the order in which they are to be divided; what is in none of them goes with the model
    itself. model: with its adapters on it.

    Every block is one. Where the installed transformers has a plan for the architecture (`fsdp_plan`, module -> style)
    and the model has every module that it names, the embeddings are one too, and the final norm and the head another,
    which is needed again first on the way back. Matrices that two modules share (a tied head) stay with the model:
    one of the two would find them let go.
    """
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    plan: dict[str, str] = getattr(base, "fsdp_plan", None) or {}
    named = dict(base.named_modules())
    outside = {name: style for name, style in plan.items() if "*" not in name}
    found = [Unit((block,)) for block in blocks]
    if not set(outside) <= set(named):  # GPT-2's names modules that it does not have
        return found
    shared = _shared(base)
    own = {name: named[name] for name in outside if not shared & {id(p) for p in named[name].parameters()}}
    found += [Unit((module,)) for name, module in own.items() if outside[name] == FREED and _is_large([module])]
    kept = tuple(module for name, module in own.items() if outside[name] == KEPT)
    return [*found, Unit(kept, freed=False)] if _is_large(kept) else found


def _is_large(modules: Sequence[nn.Module]) -> bool:
    """Whether there is a matrix among their tensors: vectors alone are not worth a call."""
    return any(p.ndim > 1 for module in modules for p in module.parameters())


def _shared(model: nn.Module) -> set[int]:
    """The tensors that stand in more than one place."""
    seen: set[int] = set()
    twice: set[int] = set()
    for _, parameter in model.named_parameters(remove_duplicate=False):
        (twice if id(parameter) in seen else seen).add(id(parameter))
    return twice
