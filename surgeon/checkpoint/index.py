"""A checkpoint folder as one mapping from tensor names to stored tensors; nothing is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from surgeon.checkpoint.config_json import read_json_object
from surgeon.checkpoint.digest import file_digests, json_digest
from surgeon.checkpoint.header import StoredTensor, read_header
from surgeon.checkpoint.journal import check_whole
from surgeon.checkpoint.known_digests import known_weight_digests
from surgeon.checkpoint.lineage import Lineage, read_lineage
from surgeon.checkpoint.no_weights import check_is_model, no_weights
from surgeon.checkpoint.sidecars import TOKENIZER_FILES
from surgeon.checkpoint.tree_digest import WeightDigest, weight_digests
from surgeon.errors import SurgeonError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """config.json and safetensors shards of one folder, checked against each other on opening."""

    path: Path
    config: dict[str, Any]
    shards: tuple[Path, ...]
    tensors: dict[str, StoredTensor]

    @classmethod
    def open(cls, folder: Path | str) -> Checkpoint:
        """Read config and headers. Raises SurgeonError on anything missing, damaged or contradictory."""
        folder = Path(folder)
        if not folder.is_dir():
            raise SurgeonError("there is no such folder", str(folder), "give the path of a checkpoint folder")
        check_whole(folder)
        if (folder / ADAPTER_WEIGHTS).is_file() and not (folder / CONFIG).is_file():
            return cls._adapter(folder)
        if not (folder / CONFIG).is_file() and _other_than_a_model(folder):
            raise no_weights(folder, f"{SINGLE} nor {INDEX}")
        config = read_json_object(folder / CONFIG)
        single, index = folder / SINGLE, folder / INDEX
        if single.is_file() and index.is_file() and not _names_only(index, SINGLE):
            raise SurgeonError(
                f"both {SINGLE} and {INDEX} are there: which one holds the weights is not clear",
                str(folder),
                "remove the one that is stale",
            )
        if index.is_file():
            shards, tensors = _sharded(index)
        elif single.is_file():
            shards, (tensors, _) = (single,), read_header(single)
        else:
            raise no_weights(folder, f"{SINGLE} nor {INDEX}")
        if not tensors:
            raise SurgeonError("the checkpoint holds no tensors", str(folder), "give a complete checkpoint")
        return cls(folder, config, shards, dict(sorted(tensors.items())))

    @classmethod
    def open_model(cls, folder: Path | str) -> Checkpoint:
        """As open, of a whole model: an adapter in its place is refused."""
        found = cls.open(folder)
        check_is_model(found.config, str(found.path))
        return found

    @classmethod
    def _adapter(cls, folder: Path) -> Checkpoint:
        """A PEFT folder: `config` is its adapter_config.json."""
        weights = folder / ADAPTER_WEIGHTS
        tensors, _ = read_header(weights)
        return cls(folder, read_json_object(folder / ADAPTER_CONFIG), (weights,), dict(sorted(tensors.items())))

    @cached_property
    def lineage(self) -> Lineage | None:
        return read_lineage(self.path)

    @cached_property
    def digest(self) -> str:
        """Of the weights' files, config.json and the tokenizer; the same wherever the folder lies. Weights that were
        read before and have not changed since are not read again."""
        return self._digest([d.digest for d in self.weight_digests])

    @cached_property
    def weight_digests(self) -> tuple[WeightDigest, ...]:
        """The digests of the shards and of their tensors, in the order of `shards`."""
        return tuple(known_weight_digests(self.shards))

    def read_digest(self) -> str:
        """`digest` from the bytes as they are now, whatever is known of them."""
        return self._digest([d.digest for d in weight_digests(self.shards)])

    def _digest(self, weights: list[str]) -> str:
        is_adapter = self.shards[0].name == ADAPTER_WEIGHTS
        names = [ADAPTER_CONFIG if is_adapter else CONFIG]
        names += [name for name in TOKENIZER_FILES if (self.path / name).is_file()]
        others = dict(zip(names, file_digests(self.path / n for n in names), strict=True))
        return json_digest(dict(zip((shard.name for shard in self.shards), weights, strict=True)) | others)

    @cached_property
    def index_metadata(self) -> dict[str, Any]:
        """What the index says beside its map; empty where there is none."""
        path = self.path / INDEX
        found = read_json_object(path).get("metadata") if path.is_file() else None
        return found if isinstance(found, dict) else {}

    @property
    def num_bytes(self) -> int:
        return sum(t.nbytes for t in self.tensors.values())

    def tensor(self, name: str) -> StoredTensor:
        try:
            return self.tensors[name]
        except KeyError as error:
            raise SurgeonError(
                f"the checkpoint has no tensor {name!r}",
                str(self.path),
                "`surgeon inspect` lists what it has",
            ) from error


def _other_than_a_model(folder: Path) -> bool:
    """Whether what lies there says more of the folder than that config.json is not there."""
    return (folder / ADAPTER_CONFIG).is_file() or any(folder.glob("*.gguf"))


def _names_only(index: Path, shard: str) -> bool:
    """An index of one file: it is there where other safetensors files lie beside the model's."""
    weight_map = read_json_object(index).get("weight_map")
    return isinstance(weight_map, dict) and set(weight_map.values()) == {shard}


def _sharded(index: Path) -> tuple[tuple[Path, ...], dict[str, StoredTensor]]:
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise SurgeonError("the index has no weight_map", str(index), "download the index again")
    for name in weight_map.values():
        if Path(name).name != name:
            raise SurgeonError(
                f"the index names the shard {name!r}, which is no file of this folder",
                str(index),
                "download the index and the shards again, from one revision",
            )
    shards = tuple(index.parent / name for name in sorted(set(weight_map.values())))
    tensors: dict[str, StoredTensor] = {}
    for shard in shards:
        if not shard.is_file():
            raise SurgeonError(
                f"the shard {shard.name} is missing", str(index), "download the missing file into the folder"
            )
        held, _ = read_header(shard)
        for name, tensor in held.items():
            if weight_map.get(name) != shard.name:
                raise SurgeonError(
                    f"the shard {shard.name} holds {name!r}, which the index places elsewhere or not at all",
                    str(index),
                    "download the index and the shards again, from one revision",
                )
            tensors[name] = tensor
    absent = sorted(weight_map.keys() - tensors.keys())
    if absent:
        raise SurgeonError(
            f"the index names {absent[0]!r}, which is not in {weight_map[absent[0]]}"
            + (f" (and {len(absent) - 1} more)" if len(absent) > 1 else ""),
            str(index),
            "download the index and the shards again, from one revision",
        )
    return shards, tensors
