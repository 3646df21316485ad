"""The freeze rule of LLaMA-Factory, and its settings for a set of parameters.

src/llamafactory/model/adapter.py, _setup_freeze_tuning: a parameter is trained if one of the strings `.I.MODULE`, for
the chosen blocks I and modules, or one of the extra modules, stands anywhere in its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Freeze:
    """layers: freeze_trainable_layers, the last n blocks or (below zero) the first. modules: freeze_trainable_modules,
    empty for all. extra: freeze_extra_modules. pro: use_llama_pro, every (depth / layers)-th block from the end of
    the first stride."""

    layers: int
    modules: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    pro: bool = False

    def as_config(self) -> dict[str, Any]:
        """Fields of FreezeArguments and FinetuningArguments (src/llamafactory/hparams/finetuning_args.py)."""
        found: dict[str, Any] = {"freeze_trainable_layers": self.layers}
        found["freeze_trainable_modules"] = ",".join(self.modules) or "all"
        if self.extra:
            found["freeze_extra_modules"] = ",".join(self.extra)
        if self.pro:
            found["use_llama_pro"] = True
        return found

    def blocks(self, depth: int) -> list[int]:
        """The chosen blocks of a model of `depth` blocks."""
        if self.pro:
            stride = depth // self.layers
            return list(range(stride - 1, depth + stride - 1, stride))
        if self.layers > 0:
            return list(range(max(0, depth - self.layers), depth))
        return list(range(min(-self.layers, depth)))

    def trained(self, names: Iterable[str], depth: int) -> list[str]:
        """The names that the rule leaves trainable, in their order."""
        words = [f".{i}.{m}" for i in self.blocks(depth) for m in self.modules or ("",)] + list(self.extra)
        return [n for n in names if any(w in n for w in words)]


def freeze_of(names: Sequence[str], trained: Sequence[str], depth: int) -> Freeze | None:
    """Settings that train exactly `trained` (a part of `names`, in their order), or None where there are none.

    The shortest settings win: all modules before a list of them, consecutive blocks before strides.
    """
    chosen = set(trained)
    extra = tuple(dict.fromkeys(n.split(".")[-2] for n in trained if re.search(r"\.\d+\.", n) is None))
    listed = tuple(m for m in _block_modules(names) if any(f".{m}." in n or n.endswith(f".{m}") for n in trained))
    for layers, pro in _candidates(depth):
        for modules in ((), listed) if listed else ((),):
            rule = Freeze(layers, modules, extra, pro)
            if set(rule.trained(names, depth)) == chosen:
                return rule
    return None


def _candidates(depth: int) -> Iterator[tuple[int, bool]]:
    for count in range(depth + 1):
        yield count, False
    for count in range(1, depth):
        yield -count, False
    for count in range(1, depth + 1):
        if depth % count == 0:
            yield count, True


def _block_modules(names: Iterable[str]) -> list[str]:
    """What may stand in freeze_trainable_modules: the first word behind `.0.` or `.1.` of a name."""
    found: dict[str, None] = {}
    for name in names:
        for number in (".0.", ".1."):
            if number in name:
                found[name.split(number)[-1].split(".")[0]] = None
                break
    return list(found)
