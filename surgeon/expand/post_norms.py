"""Norms behind the branches of a family that nobody declared, found by what the blocks of a tiny model of it compute.

A norm that is silenced in all channels but the first lets what lies before it into that channel only: whatever a
writer of the block then gives, the others leave the block as if it gave nothing. A norm before the branch, silenced
likewise, changes what the branch adds to every channel. Blocks are judged one by one, and so are their writers: there
are families whose blocks differ, and blocks of which one branch ends in a norm and the other does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgeon.arch.declaration import Branches, Declaration
from surgeon.arch.family import Family
from surgeon.arch.roles import role_by_name

if TYPE_CHECKING:
    import torch

    from surgeon.expand.stack import Stack

GAINS = (0.0, -1.0)  # of a norm that multiplies by its gain, and of one that multiplies by 1 + gain


def with_post_norms(declared: Declaration, found: Sequence[Branches]) -> Declaration:
    """`declared` with how its blocks end, said for the family as a whole where all of them are alike."""
    if not any(branches.post_norms for branches in found):
        return declared
    if not found[0].bare and all(branches == found[0] for branches in found):
        return replace(declared, post_norms=found[0].post_norms)
    return replace(declared, branches=tuple(found))


def find_post_norms(tiny: Path, family: Family) -> list[Branches]:
    """How the branches of every block of the model saved at `tiny` end; without post-norms where nothing shows them.

    Of several norms behind a writer it is the one with the most writers before it: the others stand before its sum.
    """
    model = _Model(tiny, family)
    writers = [[w for w in family.residual_writers if w in held] for held in model.parts]
    norms = [part for part, role in family.declaration.parts.items() if role == "norm" and model.is_wide(part)]
    behind: list[dict[tuple[str, float], list[str]]] = [{} for _ in writers]
    for norm in norms:
        for gain in GAINS:
            silent = model.leaving(norm, gain, None)
            for writer in family.residual_writers:
                for block, (left, none) in enumerate(zip(model.leaving(norm, gain, writer), silent, strict=True)):
                    if {writer, norm} <= model.parts[block] and _in_the_first_channel(left - none):
                        behind[block].setdefault((norm, gain), []).append(writer)
    return [_branches(*block) for block in zip(writers, behind, strict=True)]


def _branches(writers: Sequence[str], behind: Mapping[tuple[str, float], Sequence[str]]) -> Branches:
    chosen: dict[str, float] = {}
    open_ends = list(writers)
    for (norm, gain), silenced in sorted(behind.items(), key=lambda entry: -len(entry[1])):
        if any(writer in open_ends for writer in silenced):
            chosen[norm] = gain
            open_ends = [writer for writer in open_ends if writer not in silenced]
    return Branches(chosen, tuple(open_ends))


def _in_the_first_channel(difference: torch.Tensor) -> bool:
    """Whether all of it is there, and something is."""
    return bool(difference[..., 0].any()) and not bool(difference[..., 1:].any())


class _Model:
    """A tiny model whose blocks all get what they get in its plain run, whatever their parameters become."""

    def __init__(self, folder: Path, family: Family) -> None:
        from safetensors.torch import load_file
        from transformers import AutoConfig

        from surgeon.expand.shrink import probe_ids
        from surgeon.expand.stack import Stack

        self.config = AutoConfig.from_pretrained(folder)
        self.stored = load_file(folder / "model.safetensors")
        self.family = family
        self.ids = probe_ids()
        self.parts = [{family.writer(part) or part for part in family.parts(b)} for b in range(family.depth)]
        plain = Stack(self._loaded({}), family)
        self.entering = plain.run(self.ids).entering
        self.in_memory = _norms_in_memory(plain.model)
        self.stacks: dict[str | None, Stack] = {}

    def is_wide(self, part: str) -> bool:
        """Whether the part is a norm of what passes through the blocks."""
        name = next((self.family.block_tensor(b, part) for b, held in enumerate(self.parts) if part in held), "")
        return name in self.in_memory and self.stored[name].shape == self.entering[0].shape[-1:]

    def leaving(self, norm: str, gain: float, writer: str | None) -> list[torch.Tensor]:
        """What leaves every block, float32 [2, 24, D], where `norm` is silenced by `gain` in all channels but the
        first and all writers but `writer` give zero."""
        stack = self._only(writer)
        parameters = dict(stack.model.named_parameters())
        changed = [name for b in self.family.blocks for name in b if self.family.unit(name).part == norm]
        for name in changed:
            parameters[self.in_memory[name]].data[1:] = gain
        passage = stack.run(self.ids)
        for name in changed:
            parameters[self.in_memory[name]].data.copy_(self.stored[name])
        # of what a block returns the first; OpenAI's GPT returns a list
        return [left[0] if isinstance(left, (tuple, list)) else left for left in passage.left]

    def _only(self, writer: str | None) -> Stack:
        """The model in which no other writer gives anything."""
        import torch

        from surgeon.expand.stack import Stack

        if writer not in self.stacks:
            names = [name for block in self.family.blocks for name in block]
            silent = [n for n in names if self.family.writer(self.family.unit(n).part) not in (None, writer)]
            stack = Stack(self._loaded({n: torch.zeros_like(self.stored[n]) for n in silent}), self.family)
            for block, hidden in zip(stack.blocks, self.entering, strict=True):
                block.register_forward_pre_hook(_entered_by(hidden), with_kwargs=True)
            self.stacks[writer] = stack
        return self.stacks[writer]

    def _loaded(self, replaced: Mapping[str, torch.Tensor]) -> Any:
        import torch
        from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

        # a model may take the very tensors that it is given, and its norms will be changed
        state = {name: tensor.clone() for name, tensor in {**self.stored, **replaced}.items()}
        return MODEL_FOR_CAUSAL_LM_MAPPING[type(self.config)].from_pretrained(
            None, config=self.config, state_dict=state, dtype=torch.float32
        )


def _norms_in_memory(model: Any) -> dict[str, str]:
    """The name in the checkpoint -> the one in memory: as transformers' own conversion of their numbers tells, or the
    same, which it reads as well."""
    import torch
    from transformers.core_model_loading import revert_weight_conversion

    names = [name for name, p in model.named_parameters() if p.ndim == 1 and role_by_name(_module(name)) == "norm"]
    numbers = {name: torch.tensor([number]) for number, name in enumerate(names)}
    written = revert_weight_conversion(model, numbers)
    return {name: name for name in names} | {stored: names[int(number)] for stored, number in written.items()}


def _module(name: str) -> str:
    return name.removesuffix(".weight").removesuffix(".bias")


def _entered_by(hidden: torch.Tensor) -> Any:
    def enter(_: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return ((hidden, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": hidden})

    return enter
