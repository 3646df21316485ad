"""The tensors of a run's state when several processes share them: each writes and reads its own part, through
torch.distributed.checkpoint, into safetensors files. They go on with any number of processes.

The library's default format holds a pickle; this one (its Hugging Face storage) is plain data, like all states here.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor, empty

from surgeon.errors import SurgeonError
from surgeon.train.intact import way_out

# what the library raises for files that are damaged or of something else: in several processes gathered into the last
_BROKEN = (OSError, RuntimeError, ValueError, KeyError, SafetensorError, CheckpointException)
_PARAMETER, _MOMENT = "parameters.", "moments."  # then the name; number of the parameter and key


def save(folder: Path, parameters: Mapping[str, Tensor], optimizer: dict[str, Any]) -> dict[str, Any]:
    """Write this process' parts of the parameters and of the tensors of an optimizer's state_dict; all processes do it
    together. Gives the state_dict without these tensors."""
    held = {_PARAMETER + name: p.detach() for name, p in parameters.items()}
    rest: dict[int, dict[str, Any]] = {}
    for number, moments in optimizer["state"].items():
        held |= {f"{_MOMENT}{number}.{key}": v for key, v in moments.items() if isinstance(v, Tensor)}
        rest[number] = {key: v for key, v in moments.items() if not isinstance(v, Tensor)}
    with _quiet():
        dcp.save(held, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
    return {"state": rest, "param_groups": optimizer["param_groups"]}


def whole(folder: Path, optimizer: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All of it, in this process alone: the parameters by name, and the optimizer's state_dict."""
    held = {key: torch.empty(size, dtype=dtype) for key, (size, dtype) in _stored(folder).items()}
    _load(folder, held, no_dist=True)
    parameters = {key.removeprefix(_PARAMETER): t for key, t in held.items() if key.startswith(_PARAMETER)}
    return parameters, _joined(optimizer, held)


def load_into(
    folder: Path, parameters: Mapping[str, Tensor], order: list[Tensor], optimizer: dict[str, Any]
) -> dict[str, Any]:
    """Read this process' parts into the parameters; gives the optimizer's state_dict, divided alike. order: the
    parameters as the optimizer numbers them."""
    held = {_PARAMETER + name: p.detach() for name, p in parameters.items()}
    for key, (size, dtype) in _stored(folder).items():
        if key.startswith(_MOMENT):
            like = order[int(key.removeprefix(_MOMENT).split(".")[0])].detach()
            held[key] = _empty(size, dtype, like)
    _load(folder, held)
    return _joined(optimizer, held)


def _empty(size: torch.Size, dtype: torch.dtype, like: Tensor) -> Tensor:
    """Divided like the parameter, along the same axis; numbers without an axis are whole."""
    if not isinstance(like, DTensor) or not size:
        return torch.empty(size, dtype=dtype)
    return empty(size, dtype=dtype, device_mesh=like.device_mesh, placements=like.placements)


def _stored(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    try:
        found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    except _BROKEN as error:
        raise _broken(folder) from error
    return {
        key: (entry.size, entry.properties.dtype)
        for key, entry in sorted(found.items())
        if isinstance(entry, TensorStorageMetadata)
    }


def _load(folder: Path, held: dict[str, Tensor], no_dist: bool = False) -> None:
    try:
        with _quiet():
            dcp.load(held, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=no_dist)
    except _BROKEN as error:
        raise _broken(folder) from error


def _joined(optimizer: dict[str, Any], held: Mapping[str, Tensor]) -> dict[str, Any]:
    state = {number: dict(moments) for number, moments in optimizer["state"].items()}
    for key, tensor in held.items():
        if key.startswith(_MOMENT):
            number, name = key.removeprefix(_MOMENT).split(".", 1)
            state[int(number)][name] = tensor
    return {"state": state, "param_groups": optimizer["param_groups"]}


def _broken(folder: Path) -> SurgeonError:
    return SurgeonError("the parts of the state cannot be read", str(folder), way_out(folder))


@contextmanager
def _quiet() -> Iterator[None]:
    """It warns where one process reads alone, which is meant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield
