"""A plan is data: for every output tensor its dtype, shape and source; it can be printed, hashed, saved, applied."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from surgeon.checkpoint.digest import json_digest
from surgeon.checkpoint.header import num_bytes
from surgeon.checkpoint.lineage import Lineage

FORMAT = 1
DEFAULT_SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True, slots=True)
class Copy:
    """The bytes of `tensor` of the input with the role `model`, never decoded where they go out unchanged.

    shift: inside pieces, row r of the output is row r + shift of the tensor (a token that has another id there).
    """

    model: str
    tensor: str
    shift: int = 0


@dataclass(frozen=True, slots=True)
class Zeros:
    """All bytes zero."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some rows of a matrix: `ids` are output rows as half-open runs ((start, stop), ...), in order.

    The k-th id of the piece takes row k of `source` evaluated with the piece's own number of rows; a Copy inside a
    piece is taken at the same row ids of its tensor.
    """

    ids: tuple[tuple[int, int], ...]
    source: Source

    @property
    def count(self) -> int:
        return sum(stop - start for start, stop in self.ids)


@dataclass(frozen=True, slots=True)
class Rows:
    """A matrix (or vector) put together from pieces that cover every row exactly once."""

    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Apply:
    """`method` ("kind:name" in the registry) on the tensors of `inputs`, with plain-data `options`.

    The function gets the input tensors positionally as one list, in float64 unless its module says
    COMPUTE = "float32", and returns the output unrounded; the executor rounds once to the output's dtype.
    `attachment` names a table of the plan (see Plan.attachments) that the function gets as `table`.
    """

    method: str
    inputs: tuple[Source, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    attachment: str | None = None


Source = Copy | Zeros | Rows | Apply


@dataclass(frozen=True, slots=True)
class OutTensor:
    name: str
    dtype: str  # safetensors code
    shape: tuple[int, ...]
    source: Source

    @property
    def nbytes(self) -> int:
        return num_bytes(self.dtype, self.shape)


@dataclass(frozen=True, slots=True, eq=False)
class Input:
    """A checkpoint that the plan reads: `role` is how sources name it. told: its digest, or what tells it: weights
    that nobody has read need not be read before they are written somewhere else (see checkpoint/unread.py)."""

    role: str
    path: Path
    told: str | Callable[[], str]
    name: str = ""

    @property
    def digest(self) -> str:
        return self.told if isinstance(self.told, str) else self.told()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Input) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash((self.role, self.path, self.name))

    def _values(self) -> tuple[str, Path, str, str]:
        return self.role, self.path, self.digest, self.name


@dataclass(frozen=True)
class Plan:
    """Everything an output will be, before a byte of it is written.

    files: text of files to write, by name (config.json excluded). carried: sidecars copied unchanged, name ->
    role of the input. attachments: small safetensors files, by name, written to surgeon/NAME of the output.
    shards: the names of each shard's tensors in order, where the shards are those of the input (empty: shards are
    filled up to shard_bytes). link: a shard that is the same as the input's file becomes a second name of it; this
    does not decide its bytes. restores: the digest of a checkpoint that the output may turn out to be, which is said.
    headers: the lengths of the shards' headers, where they are to be those of that checkpoint; shard_names, metadata:
    what its shards were called and what their headers said, where that is unusual; index: what its index said beside
    its map.
    told: role -> lineage of an input whose folder has none, as a person told it.
    """

    operation: str
    settings: Mapping[str, Any]
    seed: int
    inputs: tuple[Input, ...]
    tensors: tuple[OutTensor, ...]
    config: Mapping[str, Any]
    lineage: Lineage
    files: Mapping[str, str] = field(default_factory=dict)
    binary: Mapping[str, bytes] = field(default_factory=dict)
    carried: Mapping[str, str] = field(default_factory=dict)
    attachments: Mapping[str, bytes] = field(default_factory=dict)
    shard_bytes: int = DEFAULT_SHARD_BYTES
    kind: str = "model"  # "model", or "adapter" for a PEFT folder
    shards: tuple[tuple[str, ...], ...] = ()
    link: bool = False
    restores: str = ""
    headers: tuple[int, ...] = ()
    shard_names: tuple[str, ...] = ()
    metadata: tuple[Mapping[str, str], ...] = ()
    index: Mapping[str, Any] = field(default_factory=dict)
    told: Mapping[str, Lineage] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.tensors)

    @property
    def digest(self) -> str:
        """Of all that decides the output's bytes; paths do not."""
        value = to_json(self)
        for entry in value["inputs"]:
            del entry["path"], entry["name"]
        value.pop("link", None)
        return json_digest(value)

    def input(self, role: str) -> Input:
        return next(i for i in self.inputs if i.role == role)


# --- plain data -----------------------------------------------------------------------------------------------------


def source_to_json(source: Source) -> dict[str, Any]:
    match source:
        case Copy(model, tensor, shift):
            return {"copy": [model, tensor, shift] if shift else [model, tensor]}
        case Zeros():
            return {"zeros": True}
        case Rows(pieces):
            return {"rows": [[[list(run) for run in p.ids], source_to_json(p.source)] for p in pieces]}
        case Apply(method, inputs, options, attachment):
            value = {"apply": method, "inputs": [source_to_json(i) for i in inputs], "options": dict(options)}
            return value if attachment is None else value | {"attachment": attachment}


def source_from_json(value: Mapping[str, Any]) -> Source:
    match value:
        case {"copy": [model, tensor, *shift]}:
            return Copy(model, tensor, *shift)
        case {"zeros": True}:
            return Zeros()
        case {"rows": pieces}:
            return Rows(tuple(Piece(tuple((a, b) for a, b in ids), source_from_json(s)) for ids, s in pieces))
        case {"apply": method}:
            inputs = tuple(source_from_json(i) for i in value["inputs"])
            return Apply(method, inputs, value["options"], value.get("attachment"))
    raise ValueError(f"not a source: {value!r}")


def map_copies(source: Source, change: Any) -> Source:
    """The same source with every Copy replaced by `change(copy)`."""
    match source:
        case Copy():
            return change(source)
        case Rows(pieces):
            return Rows(tuple(replace(p, source=map_copies(p.source, change)) for p in pieces))
        case Apply(_, inputs):
            return replace(source, inputs=tuple(map_copies(i, change) for i in inputs))
    return source


def leaves(source: Source) -> list[Copy]:
    """Every Copy in the source, in order."""
    match source:
        case Copy():
            return [source]
        case Rows(pieces):
            return [leaf for piece in pieces for leaf in leaves(piece.source)]
        case Apply(_, inputs):
            return [leaf for inner in inputs for leaf in leaves(inner)]
    return []


def runs(ids: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Ascending row ids as half-open runs: [3, 4, 5, 9] -> ((3, 6), (9, 10))."""
    found: list[list[int]] = []
    for i in ids:
        if found and found[-1][1] == i:
            found[-1][1] = i + 1
        else:
            found.append([i, i + 1])
    return tuple((a, b) for a, b in found)


def to_json(plan: Plan) -> dict[str, Any]:
    value = {
        "format": FORMAT,
        "operation": plan.operation,
        "kind": plan.kind,
        "settings": dict(plan.settings),
        "seed": plan.seed,
        "inputs": [{"role": i.role, "path": str(i.path), "digest": i.digest, "name": i.name} for i in plan.inputs],
        "tensors": [[t.name, t.dtype, list(t.shape), source_to_json(t.source)] for t in plan.tensors],
        "config": dict(plan.config),
        "lineage": plan.lineage.model_dump(mode="json", exclude_defaults=True),
        "files": dict(plan.files),
        "binary": {name: base64.b64encode(raw).decode() for name, raw in plan.binary.items()},
        "carried": dict(plan.carried),
        "attachments": {name: base64.b64encode(raw).decode() for name, raw in plan.attachments.items()},
        "shard_bytes": plan.shard_bytes,
    }
    if plan.shards:
        value |= {"shards": [list(names) for names in plan.shards], "link": plan.link}
    if plan.restores:
        value["restores"] = plan.restores
    if plan.headers:
        value["headers"] = list(plan.headers)
    if plan.shard_names:
        value["shard_names"] = list(plan.shard_names)
    if plan.metadata:
        value["metadata"] = [list(map(list, held.items())) for held in plan.metadata]
    if plan.index:
        value["index"] = dict(plan.index)
    if plan.told:
        value["told"] = {r: told.model_dump(mode="json", exclude_defaults=True) for r, told in plan.told.items()}
    return value


def from_json(value: Mapping[str, Any]) -> Plan:
    """The inverse of to_json; raises KeyError, TypeError or ValueError on anything else."""
    if value["format"] != FORMAT:
        raise ValueError(f"plan format {value['format']}, this version reads {FORMAT}")
    return Plan(
        operation=value["operation"],
        settings=value["settings"],
        seed=value["seed"],
        inputs=tuple(Input(i["role"], Path(i["path"]), i["digest"], i["name"]) for i in value["inputs"]),
        tensors=tuple(OutTensor(n, d, tuple(s), source_from_json(x)) for n, d, s, x in value["tensors"]),
        config=value["config"],
        lineage=Lineage.model_validate(value["lineage"]),
        files=value["files"],
        binary={name: base64.b64decode(raw) for name, raw in value["binary"].items()},
        carried=value["carried"],
        attachments={name: base64.b64decode(raw) for name, raw in value["attachments"].items()},
        shard_bytes=value["shard_bytes"],
        kind=value["kind"],
        shards=tuple(map(tuple, value.get("shards", ()))),
        link=value.get("link", False),
        restores=value.get("restores", ""),
        headers=tuple(value.get("headers", ())),
        shard_names=tuple(value.get("shard_names", ())),
        metadata=tuple(map(dict, value.get("metadata", ()))),
        index=value.get("index", {}),
        told={role: Lineage.model_validate(told) for role, told in value.get("told", {}).items()},
    )


def dump_plan(plan: Plan) -> str:
    return json.dumps(to_json(plan), indent=1, ensure_ascii=False) + "\n"
