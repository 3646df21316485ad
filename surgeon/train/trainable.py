"""Which tensors of a model are trained, which rows of them, and how fast."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from surgeon.arch.roles import role_by_name
from surgeon.checkpoint.lineage import Lineage, NewBlock
from surgeon.checkpoint.new_blocks import new_blocks
from surgeon.checkpoint.new_rows import new_rows
from surgeon.errors import SurgeonError, UsageError, did_you_mean
from surgeon.train.groups import FLAG, grouped, is_matrix

BOTH, ROLE = "new-blocks+new-rows", "role:"
OLD_BLOCKS, NEW_BLOCKS = "old-blocks", "new-blocks"
# tensors outside of the blocks that all of them stand behind
BELOW = re.compile(r"embed|wte|wpe|per_layer_model_projection|altup_projections|project_in|transformer\.w\.")
SETS = ("full", "new-blocks", "new-rows", BOTH, "adapter", "role:ROLE,...")


@dataclass(frozen=True)
class Trainable:
    """parameters: trained ones by name, a tied one once. rows: bool [rows] by name, where only some rows may move.
    multipliers: of the learning rate, by name (1 where absent). lowest_block: the first block that holds a trained
    tensor, 0 where something below the blocks is trained, None where only what is above them is. decays: weight decay
    by name, where it is not the run's."""

    parameters: dict[str, nn.Parameter]
    rows: dict[str, Tensor] = field(default_factory=dict)
    multipliers: dict[str, float] = field(default_factory=dict)
    decays: dict[str, float] = field(default_factory=dict)
    lowest_block: int | None = 0

    @property
    def num_parameters(self) -> int:
        """Elements that may move. By sizes alone: where several processes share a tensor, to look into it is a common
        act, and the main process asks by itself."""
        return sum(
            int(self.rows[n].sum()) * p.shape[1:].numel() if n in self.rows else p.numel()
            for n, p in self.parameters.items()
        )

    def groups(self, lr: float, weight_decay: float, *, by_tensor: bool = False) -> list[dict[str, Any]]:
        """Optimizer groups: matrices decay, norms and biases do not, unless `decays` says so; one group a
        decay and a multiplier, or (by_tensor) one a tensor. `names`: of the group's parameters, in order."""
        found: dict[tuple[float, float, str], list[str]] = {}
        for name, parameter in self.parameters.items():
            decay = self.decays.get(name, weight_decay if is_matrix(name, parameter) else 0.0)
            key = (decay, self.multipliers.get(name, 1.0), name if by_tensor else "")
            found.setdefault(key, []).append(name)
        return [
            {
                "params": [self.parameters[name] for name in names],
                "names": names,
                "lr": lr * scale,
                "lr_scale": scale,
                "weight_decay": decay,
            }
            for (decay, scale, _), names in found.items()
        ]


def select(model: Any, what: str, lineage: Lineage | None, groups: Sequence[str] = ()) -> Trainable:
    """Freeze everything but the chosen set (sets requires_grad) and describe it.

    what: full, new-blocks, new-rows, adapter, new-blocks+new-rows, `role:` with roles (role:attention.q,mlp), or a
    regular expression over names; a tensor that is tied has several.
    groups: REGEX:lr=FACTOR,weight_decay=X (see surgeon.train.groups).
    Nothing below the lowest trained block gets a graph, because nothing there requires a gradient.
    Raises SurgeonError where the lineage has no new blocks or rows, or the expression matches nothing.
    """
    named, also = dict(model.named_parameters()), tied_names(model)
    prefix = block_prefix(model)
    rows: dict[str, Tensor] = {}
    multipliers: dict[str, float] = {}
    if what == BOTH:
        chosen, multipliers = _new_blocks(model, named, prefix, added_blocks(lineage))
        rows = _new_rows(model, named, added_rows(lineage))
        chosen |= set(rows)
    elif what.startswith(ROLE):
        chosen = _of_roles(model, named, prefix, what.removeprefix(ROLE))
    elif what == "full":
        chosen = set(named)
    elif what == "adapter":
        chosen = {name for name, p in named.items() if p.requires_grad}
        if not hasattr(model, "peft_config"):
            raise UsageError("there is no adapter to train", "--train adapter", "write the model as MODEL+ADAPTER")
    elif what == "new-blocks":
        chosen, multipliers = _new_blocks(model, named, prefix, added_blocks(lineage))
    elif what == "new-rows":
        rows = _new_rows(model, named, added_rows(lineage))
        chosen = set(rows)
    else:
        chosen = _matching(named, also, what)
    for name, parameter in named.items():
        parameter.requires_grad_(name in chosen)
    held = {name: p for name, p in named.items() if name in chosen}  # in the model's order
    factors, decays = grouped(groups, list(held), lambda word: _known(word, model, named, prefix, lineage), also)
    multipliers |= {name: multipliers.get(name, 1.0) * factor for name, factor in factors.items()}
    still = [name for name, factor in factors.items() if factor == 0]
    if len(still) == len(held):
        raise UsageError("every trained tensor has the rate 0", FLAG, "leave some of them a rate")
    for name in still:
        held.pop(name).requires_grad_(False)
        for values in (rows, multipliers, decays):
            values.pop(name, None)
    return Trainable(held, rows, multipliers, decays, _lowest(held, prefix))


def _known(
    word: str, model: Any, named: Mapping[str, nn.Parameter], prefix: str, lineage: Lineage | None
) -> set[str] | None:
    """The names of a set that groups call by a word of its own, None for any other word."""
    if word.startswith(ROLE):
        return _of_roles(model, named, prefix, word.removeprefix(ROLE), FLAG)
    if word not in (OLD_BLOCKS, NEW_BLOCKS):
        return None
    starts = tuple(f"{prefix}{number}." for number in added_blocks(lineage, f"{FLAG} {word}"))
    return {n for n in named if n.startswith(prefix) and n.startswith(starts) is (word == NEW_BLOCKS)}


def check_trained_adapter(what: str, adapter: object) -> None:
    """An adapter is trained as such, and nothing else is called one. Raises UsageError."""
    if (what == "adapter") != (adapter is not None):
        raise UsageError(
            "an adapter is trained with --train adapter on MODEL+ADAPTER, and only so",
            f"--train {what}",
            "give both, or fold the adapter first with `surgeon fold-adapter`",
        )


def block_prefix(model: Any) -> str:
    """Where the blocks are: the name of the module list whose length is the configured depth, with a dot."""
    depth = model.config.get_text_config().num_hidden_layers
    found = [
        n for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == depth and ".experts" not in n
    ]
    found = [n for n in found if not any(n != other and n.startswith(other + ".") for other in found)]
    if len(found) != 1:
        raise SurgeonError(
            f"the blocks of {type(model).__name__} are not one list of {depth} modules",
            model.config.model_type,
            "this architecture is not supported by cpt",
        )
    return found[0] + "."


def added_blocks(lineage: Lineage | None, where: str = "--train new-blocks") -> dict[int, NewBlock]:
    """The new blocks by number; training and vocabulary surgery after the deepening do not move them."""
    found = new_blocks(lineage)
    if not found:
        raise SurgeonError(
            "the lineage knows of no new blocks",
            where,
            "run `surgeon expand-layers` first, or --train full",
        )
    return found


def added_rows(lineage: Lineage | None) -> list[int]:
    """The ids of the new rows."""
    found = [row.id for row in new_rows(lineage)]
    if not found:
        raise SurgeonError(
            "the lineage knows of no new rows",
            "--train new-rows",
            "run `surgeon extend-vocab` first, or --train full",
        )
    return found


def _new_blocks(
    model: Any, named: Mapping[str, nn.Parameter], prefix: str, blocks: Mapping[int, NewBlock]
) -> tuple[set[str], dict[str, float]]:
    chosen: set[str] = set()
    multipliers: dict[str, float] = {}
    for number, new in blocks.items():
        inside = {name for name in named if name.startswith(f"{prefix}{number}.")}
        if not inside:
            raise SurgeonError(f"the model has no block {number}", "surgeon.json", "the lineage is of another model")
        chosen |= inside
        for part, factor in new.lr_multipliers.items():
            start = f"{prefix}{number}.{part}"
            hit = [n for n in inside if n == start or n.startswith(start + ".")] or _stored_as(
                model, named, inside, start
            )
            if not hit:
                raise SurgeonError(
                    f"the model has no part {part!r}", f"block {number}", "the lineage is of another model"
                )
            multipliers |= dict.fromkeys(hit, factor)
    return chosen, multipliers


def _stored_as(model: Any, named: Mapping[str, nn.Parameter], inside: set[str], part: str) -> list[str]:
    """The vectors of a block that lie in a checkpoint under the name of this part: transformers renames some."""
    from transformers.core_model_loading import revert_weight_conversion

    found = []
    for name in sorted(name for name in inside if named[name].ndim == 1):
        held = torch.empty(named[name].shape, device="meta")
        if any(stored.startswith(f"{part}.") for stored in revert_weight_conversion(model, {name: held})):
            found.append(name)
    return found


def _new_rows(model: Any, named: Mapping[str, nn.Parameter], new: list[int]) -> dict[str, Tensor]:
    matrices = [model.get_input_embeddings().weight]
    if model.get_output_embeddings() is not None:
        matrices.append(model.get_output_embeddings().weight)
    ids = torch.tensor(new)
    found = {}
    for name, parameter in named.items():
        if any(parameter is m for m in matrices):
            mask = torch.zeros(parameter.shape[0], dtype=torch.bool)
            mask[ids] = True
            found[name] = mask.to(parameter.device)
    return found


def _of_roles(
    model: Any, named: Mapping[str, nn.Parameter], prefix: str, words: str, where: str = "--train"
) -> set[str]:
    """The tensors of some roles: a role, or what stands before its dot (mlp: mlp.gate, mlp.up, mlp.down)."""
    inside = re.compile(re.escape(prefix) + r"\d+\.(.*)")
    embedding = model.get_input_embeddings().weight
    head = model.get_output_embeddings()
    roles = {}
    for name, parameter in named.items():
        match = inside.search(name)
        if match:
            part = match[1]
            roles[name] = role_by_name(part.removesuffix(".weight").removesuffix(".bias"))
        elif parameter is embedding:
            roles[name] = "embedding"
        else:
            roles[name] = "head" if head is not None and parameter is head.weight else "other"
    chosen: set[str] = set()
    for word in words.split(","):
        hit = {name for name, role in roles.items() if role == word or role.startswith(word + ".")}
        if word == "head" and head is not None and head.weight is embedding:
            hit |= {name for name, role in roles.items() if role == "embedding"}
        if not hit or not word:
            known = sorted(set(roles.values()))
            raise UsageError(f"no trained tensor has the role {word!r}", where, did_you_mean(word, known))
        chosen |= hit
    return chosen


def tied_names(model: Any) -> dict[str, list[str]]:
    """The other names of the tensors that have several, by the one that `named_parameters` gives."""
    first: dict[int, str] = {}
    found: dict[str, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if first.setdefault(id(parameter), name) != name:
            found.setdefault(first[id(parameter)], []).append(name)
    return found


def _matching(named: Mapping[str, nn.Parameter], also: Mapping[str, Sequence[str]], expression: str) -> set[str]:
    pattern = compiled(expression)
    chosen = {name for name in named if any(map(pattern.search, (name, *also.get(name, ()))))}
    if not chosen:
        raise UsageError(
            f"no tensor's name matches {expression!r}",
            "--train",
            f"known sets: {', '.join(SETS)}; names look like {next(iter(named))}",
        )
    return chosen


def compiled(expression: str) -> re.Pattern[str]:
    try:
        return re.compile(expression)
    except re.error as error:
        raise UsageError(
            f"{expression!r} is neither one of {', '.join(SETS)} nor a regular expression: {error}",
            "--train",
            "mend it",
        ) from error


def _lowest(held: Mapping[str, nn.Parameter], prefix: str) -> int | None:
    inside = re.compile(re.escape(prefix) + r"(\d+)\.")
    lowest: int | None = None
    order = list(held)
    for name in order:
        match = inside.search(name)
        if match:
            lowest = int(match[1]) if lowest is None else min(lowest, int(match[1]))
        elif BELOW.search(name):
            return 0
    return lowest
