"""surgeon.json: where a checkpoint comes from, and what each of its blocks, rows and tensors was at first.

A lineage is a tree: every parent carries its own lineage in full, so a checkpoint is explained without its
ancestors at hand. It holds no times and no absolute paths: the same operation gives the same file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from surgeon.checkpoint.config_json import dump_json, read_as
from surgeon.checkpoint.digest import file_digests
from surgeon.checkpoint.journal import check_whole
from surgeon.checkpoint.sidecars import METRICS_PREFIX, SURGEON_DIR
from surgeon.checkpoint.tree_digest import weight_digests

LINEAGE_FILE = "surgeon.json"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NewBlock(_Strict):
    """A block that the parent does not have: its place in this checkpoint, its source in the parent, its fill."""

    block: int
    source: int
    fill: str
    lr_multipliers: dict[str, float] = Field(default_factory=dict)  # by part, such as a zeroed post-norm gain


class BlockScore(_Strict):
    """A block of the parent as a probe found it: its score, the ends of its interval, and the share of the resamples
    in which it is among the chosen ones."""

    block: int
    score: float
    low: float
    high: float
    chosen: float


class BlockProbe(_Strict):
    """What the blocks to copy were chosen by. unit: of the scores. loss: of the whole model, in nats a token."""

    selector: str
    unit: str
    corpus: str
    corpus_digest: str
    documents: int
    tokens: int
    loss: float
    level: float
    resamples: int
    scores: list[BlockScore]


class ConfigBefore(_Strict):
    """What a step changed in config.json: the values that keys had before, and the keys that were not there."""

    values: dict[str, Any] = Field(default_factory=dict)
    absent: list[str] = Field(default_factory=list)


class FilesBefore(_Strict):
    """How the weights lay in their files before a step: their bytes, the length of each shard's header, its tensors as
    runs of places in the order of all names, wide types first, and what the index said beside its map. names,
    metadata: of the shards, where they are called otherwise than save_pretrained calls them, and where their headers
    say other things."""

    nbytes: int
    headers: list[int]
    tensors: list[list[tuple[int, int]]]
    index: dict[str, Any] = Field(default_factory=dict)
    names: list[str] = Field(default_factory=list)
    metadata: list[dict[str, str]] = Field(default_factory=list)


class BlockMap(_Strict):
    """`source[i]`: which block of the parent block i came from. `new`: the blocks that are additions. `probe`: what
    their sources were chosen by, where the model was probed. `before` and `files`: of the configuration and of the
    files, for the way back."""

    source: list[int]
    new: list[NewBlock] = Field(default_factory=list)
    probe: BlockProbe | None = None
    before: ConfigBefore | None = None
    files: FilesBefore | None = None


class NewRow(_Strict):
    """A row that the parent does not have: its id, token (as in the tokenizer) and old pieces."""

    id: int
    token: str
    pieces: list[int]


class RowMap(_Strict):
    """Vocabulary rows. Old rows keep their ids. `weights` names the file (under surgeon/) with the new rows'
    initial weights over old rows, `hull_weights` the file of the same weights in float32 beside the model; `method`
    is the init of the input and `method_output` of the output matrix.
    learning: how the tokens were found (curve: tokens added, tokens of the corpus then). calibration: what old text
    loses to the new rows, as measured on the probe."""

    old: int
    rows: int
    new: list[NewRow]
    method: str
    method_output: str
    weights: str | None = None
    hull_weights: str | None = None
    project: str | None = None
    learning: dict[str, Any] | None = None
    calibration: dict[str, Any] | None = None


class ContextChange(_Strict):
    """How far positions reach (`length`, tokens, None where config.json does not say) and how they turn: `rope`, kind
    of block ("all" where they share it) -> rotary parameters as transformers 5 spells them. `left`: the kinds that
    were not changed. `before`: of the configuration."""

    length: int | None
    rope: dict[str, dict[str, Any]]
    left: list[str] = Field(default_factory=list)
    before: ConfigBefore = Field(default_factory=ConfigBefore)


class Parent(_Strict):
    """An input of the operation. `name`: hub id or folder name; `path`: relative to the output, as it was then;
    `revision`: the commit of the hub that it was."""

    role: str
    name: str
    path: str
    digest: str
    revision: str | None = None
    lineage: Lineage | None = None


class Lineage(_Strict):
    """The content of surgeon.json.

    kind: `surgery` changes shape and keeps or sets initial values; `training` changes values (cpt, merge, fold).
    initial: sources (JSON of surgeon.ops.plan) of those tensors that are not plain copies of the first parent's
    tensor of the same or the block-mapped name; with `blocks` and `rows` they rebuild theta at initialisation.
    """

    format: Literal[1] = 1
    operation: str
    kind: Literal["surgery", "training"]
    settings: dict[str, Any] = Field(default_factory=dict)
    seed: int = 0
    plan: str = ""
    parents: list[Parent] = Field(default_factory=list)
    blocks: BlockMap | None = None
    rows: RowMap | None = None
    context: ContextChange | None = None
    initial: dict[str, Any] = Field(default_factory=dict)
    adapter: dict[str, Any] | None = None
    training: dict[str, Any] | None = None
    merge: dict[str, Any] | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    files: dict[str, str] = Field(default_factory=dict)

    @property
    def moves(self) -> bool:
        """Whether a tensor of the parent is elsewhere here, or has other values by surgery: a step that only changes
        the configuration does not count where tensors are met."""
        return self.blocks is not None or self.rows is not None or bool(self.initial)

    def chain(self) -> Iterator[Lineage]:
        """This lineage, then that of the first parent, and so on to the oldest known."""
        current: Lineage | None = self
        while current is not None:
            yield current
            current = current.parents[0].lineage if current.parents else None


def read_lineage(folder: Path) -> Lineage | None:
    """The lineage of a checkpoint, or None where there is no surgeon.json. Refuses one between two states."""
    check_whole(folder)
    path = folder / LINEAGE_FILE
    if not path.is_file():
        return None
    return read_as(
        path,
        Lineage,
        f"{LINEAGE_FILE} is not a lineage this version reads",
        "restore the file, or remove it to treat the checkpoint as one without lineage",
    )


def output_digests(folder: Path, threads: int = 4, weights: Mapping[str, str] | None = None) -> dict[str, str]:
    """What `files` records: the digest of every file of an output but surgeon.json itself, and but the metrics of
    trainings, which hold speeds and so differ between two runs that give the same model. weights: digests of shards
    that are known; the other safetensors files of the folder itself are read (see tree_digest)."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in paths]
    kept = [n for n in names if n != LINEAGE_FILE and not n.startswith(f"{SURGEON_DIR}/{METRICS_PREFIX}")]
    found = dict(weights or {})
    shards = [n for n in kept if "/" not in n and n.endswith(".safetensors") and n not in found]
    found |= dict(zip(shards, (d.digest for d in weight_digests([folder / n for n in shards])), strict=True))
    others = [n for n in kept if n not in found]
    found |= dict(zip(others, file_digests((folder / n for n in others), threads), strict=True))
    return {name: found[name] for name in kept}


def dump_lineage(lineage: Lineage) -> str:
    """The text of surgeon.json."""
    return dump_json(lineage.model_dump(mode="json", exclude_defaults=True) | {"format": lineage.format})


def versions() -> dict[str, str]:
    """Versions of what computed an output, without importing it."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("surgeon", "torch", "transformers", "tokenizers", "safetensors"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a GPU image may lack some: say only what is there
            continue
    return found
