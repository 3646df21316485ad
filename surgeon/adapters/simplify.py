"""simplify-adapter: the same update with less: ranks that give nothing go, and what it took from the weights is said.

A rank whose gate is zero (its column of B or its row of A is) adds nothing: CoDyRA drives gates to zero, folds them
into B and prunes them after each task. A kind that took its first update out of the model's own weights (pissa, olora,
corda) becomes a plain LoRA of A and A0, B and -B0, which any PEFT loads on the model as it is.

Source: CoDyRA (arXiv 2412.01004), the pruning of ranks with w = 0; PEFT's conversion of mutated starts.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from surgeon import model_ref
from surgeon.adapters.peft_format import PREFIX, open_adapter, rank_and_scaling
from surgeon.adapters.start_file import changes_base, start_factors, start_of
from surgeon.checkpoint.index import ADAPTER_CONFIG, Checkpoint
from surgeon.checkpoint.lineage import Lineage
from surgeon.errors import SurgeonError
from surgeon.ops.plan import Apply, Copy, Input, OutTensor, Plan, Source
from surgeon.progress import SILENT, Progress

_A, _B = ".lora_A.weight", ".lora_B.weight"


class SimplifySettings(BaseModel):
    """The options of `surgeon simplify-adapter`. adapter: a PEFT folder, also as MODEL+ADAPTER."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    adapter: str = Field(description="A PEFT folder, or MODEL+ADAPTER.")
    out: Path = Field(description="The folder to write; it must not exist yet.")
    seed: int = Field(0, description="Has no effect: nothing is drawn.")


@dataclass(frozen=True)
class _Module:
    """A module of the adapter: the ranks that stay, its own and those of its start, and s."""

    name: str
    own: list[int]
    first: list[int]
    scaling: float

    @property
    def rank(self) -> int:
        return len(self.own) + len(self.first)


def plan_simplify(settings: SimplifySettings, progress: Progress = SILENT) -> Plan:
    """The plan of the smaller adapter; its update is the same to the last bit of every remaining rank.

    Raises SurgeonError on an adapter that is not LoRA on linear modules, has lost its start, or does nothing.
    """
    reference = model_ref.resolve(settings.adapter.removeprefix("+"))
    reference = reference.adapter or reference
    adapter = open_adapter(reference.path)
    _check(adapter)
    start = start_of(adapter)
    first = Checkpoint.open(start) if start is not None else None
    modules = _modules(adapter, first)
    kept = [m for m in modules if m.rank]
    if not kept:
        raise SurgeonError("every rank of the adapter is zero", str(adapter.path), "it can be left away altogether")
    before = sum(adapter.tensors[f"{PREFIX}{m.name}{_A}"].shape[0] for m in modules)
    after = sum(m.rank for m in kept)
    progress.say(f"{after} of {before} ranks stay, in {len(kept)} of {len(modules)} modules")
    inputs = [Input("adapter", reference.path, adapter.digest, reference.name)]
    if first is not None and start is not None:
        inputs.append(Input("start", start, first.digest, reference.name))
    found = {"ranks_before": before, "ranks": after, "modules": [m.name for m in kept]}
    return Plan(
        operation="simplify-adapter",
        settings={},
        seed=settings.seed,
        inputs=tuple(inputs),
        tensors=tuple(sorted(_tensors(adapter, kept), key=lambda t: t.name)),
        config=_config(adapter.config, kept),
        lineage=Lineage(operation="simplify-adapter", kind="training", seed=settings.seed, adapter=found),
        kind="adapter",
    )


def _check(adapter: Checkpoint) -> None:
    where = str(adapter.path / ADAPTER_CONFIG)
    kind = "DoRA" if adapter.config.get("use_dora") else adapter.config["peft_type"]
    plain = kind == "LORA"
    others = [n for n in adapter.tensors if not n.endswith((_A, _B)) or ".experts" in n]
    if not plain or others:
        what = f"it holds {others[0]!r}" if plain else f"it is of the type {kind}"
        raise SurgeonError(f"only LoRA on linear modules is simplified, and {what}", where, "fold it instead")
    if changes_base(adapter) and start_of(adapter) is None:
        raise SurgeonError(
            "the adapter took its first update out of the model's weights, and its start is not there",
            where,
            "restore surgeon/start beside it",
        )


def _modules(adapter: Checkpoint, first: Checkpoint | None) -> list[_Module]:
    starts = start_factors(adapter) if first is not None else {}
    found = []
    for name in adapter.tensors:
        if not name.endswith(_A):
            continue
        module = name.removeprefix(PREFIX).removesuffix(_A)
        own = _live_ranks(adapter, name, name.removesuffix(_A) + _B)
        began = _live_ranks(first, *starts[module]) if first is not None and module in starts else []
        found.append(_Module(module, own, began, rank_and_scaling(adapter.config, module)[1]))
    return found


def _live_ranks(folder: Checkpoint, a: str, b: str) -> list[int]:
    """The ranks whose row of A and column of B both have an element that is not zero."""
    from surgeon.checkpoint.reader import read

    live = (read(folder.tensor(a)) != 0).any(dim=1) & (read(folder.tensor(b)) != 0).any(dim=0)
    return [int(i) for i in live.nonzero().flatten()]


def _tensors(adapter: Checkpoint, modules: list[_Module]) -> list[OutTensor]:
    tensors = []
    for module in modules:
        for end, axis in ((_A, 0), (_B, 1)):
            name = f"{PREFIX}{module.name}{end}"
            stored = adapter.tensors[name]
            shape = (module.rank, stored.shape[1]) if axis == 0 else (stored.shape[0], module.rank)
            inputs: tuple[Source, ...] = (Copy("adapter", name),)
            options: dict[str, Any] = {"ranks": [module.own], "axis": axis}
            if module.first:
                inputs += (Copy("start", name),)
                options["ranks"] = [module.own, module.first]
                options |= {"negate_last": True} if axis == 1 else {}
            whole = inputs == (Copy("adapter", name),) and module.own == list(range(stored.shape[axis]))
            source = Copy("adapter", name) if whole else Apply("kernel:select_ranks", inputs, options)
            tensors.append(OutTensor(name, stored.dtype, shape, source))
    return tensors


def _config(config: dict[str, Any], modules: list[_Module]) -> dict[str, Any]:
    """With the rank of every module, and an alpha at which its scale stays what it was."""
    common = max(m.rank for m in modules)
    stabilized = bool(config.get("use_rslora"))
    ranks = {re.escape(m.name): m.rank for m in modules if m.rank != common}
    alphas = {m.name: _alpha(m.scaling, m.rank, stabilized) for m in modules}
    alpha = next(alphas[m.name] for m in modules if m.rank == common)
    return config | {
        "r": common,
        "lora_alpha": alpha,
        "rank_pattern": ranks,
        "alpha_pattern": {re.escape(name): a for name, a in alphas.items() if a != alpha},
        "target_modules": [m.name for m in modules],
        "layers_to_transform": None,
        "layers_pattern": None,  # PEFT refuses one without the other
        "init_lora_weights": True,
        "eva_config": None,
        "corda_config": None,
    }


def _alpha(scaling: float, rank: int, stabilized: bool) -> float:
    """The alpha that gives exactly this scale at this rank."""
    divisor = math.sqrt(rank) if stabilized else rank
    near = scaling * divisor
    around = (near, math.nextafter(near, math.inf), math.nextafter(near, -math.inf))
    return next((a for a in around if a / divisor == scaling), near)
