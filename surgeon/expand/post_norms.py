"""Norms behind the branches of a family that nobody declared, found by what a tiny model of it computes.

Behind a norm the size of a branch's output projection does not matter; that is the test. The gain that silences such
a norm is then the one at which the branch adds nothing, whatever the projection gives: a constant is added to that, so
that a norm before the branch, which also silences it at gain zero, is not taken for one behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgeon.arch.declaration import WRITING_ROLES
from surgeon.arch.family import Family

if TYPE_CHECKING:
    import torch

# logits of a model that does not see the size of a matrix move by the epsilon of its norms only
INVARIANT = 1e-2


def find_post_norms(tiny: Path, family: Family, logits: torch.Tensor) -> Mapping[str, float]:
    """Part -> the stored gain at which it silences its branch, for every norm behind a branch; empty where there are
    none, or not behind every branch (the writers themselves are zeroed then).

    logits: what the model saved at `tiny` gives for the probe, float32.
    """
    import torch

    model = _Model(tiny, family)
    scaled = {name: tensor * 2 for name, tensor in model.tensors(WRITING_ROLES)}
    if (model.logits(scaled) - logits).abs().max() > INVARIANT * logits.std():
        return {}
    norms = [part for part, role in family.declaration.parts.items() if role == "norm" and "." not in part]
    silent = model.logits({name: torch.zeros_like(tensor) for name, tensor in model.tensors(WRITING_ROLES)})
    for parts in _candidates(norms):
        for gain in (0.0, -1.0):
            values = {
                name: torch.full_like(tensor, gain)
                for name, tensor in model.tensors(("norm",))
                if family.unit(name).part in parts
            }
            if values and torch.equal(model.logits(values, shift=True), silent):
                return dict.fromkeys(parts, gain)
    return {}


def _candidates(norms: list[str]) -> Iterator[tuple[str, ...]]:
    """Pairs first: one norm for each of two branches; then one norm alone."""
    yield from combinations(norms, 2)
    yield from combinations(norms, 1)


class _Model:
    """A tiny model in memory, some tensors of which are replaced for one run."""

    def __init__(self, folder: Path, family: Family) -> None:
        from safetensors.torch import load_file
        from transformers import AutoConfig

        self.config = AutoConfig.from_pretrained(folder)
        self.stored = load_file(folder / "model.safetensors")
        self.family = family

    def tensors(self, roles: tuple[str, ...]) -> list[tuple[str, torch.Tensor]]:
        """The tensors of the blocks that have one of these roles, by their names in the checkpoint."""
        names = (name for block in self.family.blocks for name in block)
        return [(name, self.stored[name]) for name in names if self.family.role(name) in roles]

    def logits(self, replaced: Mapping[str, torch.Tensor], *, shift: bool = False) -> torch.Tensor:
        """[2, 24, V] float32 on the probe of the proof; shift: with 1 added to what every branch gives."""
        import torch
        from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

        from surgeon.expand.shrink import probe_ids

        model = MODEL_FOR_CAUSAL_LM_MAPPING[type(self.config)].from_pretrained(
            None, config=self.config, state_dict={**self.stored, **replaced}, dtype=torch.float32
        )
        for name in self.branches() if shift else ():
            model.get_submodule(name).register_forward_hook(_shifted)
        with torch.inference_mode():
            found: torch.Tensor = model.eval()(probe_ids()).logits
        return found

    def branches(self) -> list[str]:
        """The modules of the blocks that hold the writers: "model.layers.0.self_attn", "model.layers.0.mlp"."""
        parts = [part.partition(".")[0] for part in self.family.residual_writers]
        present = [{self.family.unit(name).part.partition(".")[0] for name in block} for block in self.family.blocks]
        return [
            f"{self.family.block_prefix}{number}.{part}"
            for number, there in enumerate(present)
            for part in dict.fromkeys(parts)
            if part in there
        ]


def _shifted(module: object, args: object, output: Any) -> Any:
    return (output[0] + 1, *output[1:]) if isinstance(output, tuple) else output + 1
