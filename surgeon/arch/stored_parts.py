"""Where a tensor of a model in memory lies in its checkpoint: transformers renames some and joins others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from surgeon.arch.configuration import settings_of
from surgeon.errors import SurgeonError


@dataclass(frozen=True, slots=True)
class StoredPart:
    """A tensor of the checkpoint. expert: the number in the first dimension of the tensor in memory that it is a part
    of (None: it is the whole tensor). start: its first row there."""

    name: str
    expert: int | None = None
    start: int = 0


class StoredParts:
    """Of the model that a config.json describes, built without memory. names: of the tensors of the checkpoint."""

    def __init__(self, config: dict[str, Any], names: set[str], where: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            self.model = AutoModelForCausalLM.from_config(settings_of(config))
        self.names, self.where = names, where

    def of(self, name: str) -> list[StoredPart]:
        """The tensors of the checkpoint that the tensor `name` in memory is made of, found by transformers' own
        conversion on its row numbers. Raises SurgeonError where that is more than a cut by rows."""
        import torch
        from transformers.core_model_loading import revert_weight_conversion

        if name in self.names:
            return [StoredPart(name)]
        shape = self.model.state_dict()[name].shape
        if len(shape) != 3:
            renamed = list(revert_weight_conversion(self.model, {name: torch.empty(shape, device="meta")}))
            return [StoredPart(self._there(found)) for found in renamed]
        # in two columns: 5.17 drops a dimension of one
        rows = torch.arange(shape[0] * shape[1]).view(shape[0], shape[1], 1).expand(-1, -1, 2)
        found = revert_weight_conversion(self.model, {name: rows})
        if len(found) == 1 and next(iter(found.values())).shape == rows.shape:
            return [StoredPart(self._there(next(iter(found))))]
        parts = []
        for stored, part in found.items():
            first = int(part.flatten()[0])
            cut = torch.arange(first, first + part.shape[0])[:, None].expand(-1, 2)
            if part.ndim != 2 or not torch.equal(part, cut):
                raise SurgeonError(
                    f"{name!r} is stored in a form that is no cut by rows", self.where, "fold it with peft itself"
                )
            parts.append(StoredPart(self._there(stored), first // shape[1], first % shape[1]))
        return parts

    def _there(self, stored: str) -> str:
        for candidate in (stored, stored.removeprefix(f"{self.model.base_model_prefix}.")):
            if candidate in self.names:
                return candidate
        raise SurgeonError(f"the checkpoint has no tensor {stored!r}", self.where, "give a complete checkpoint")
