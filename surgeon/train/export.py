"""A trained model as a checkpoint with the names, types and files of the one it started from."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from surgeon.checkpoint.header import StoredTensor, read_header
from surgeon.checkpoint.index import SINGLE, Checkpoint
from surgeon.checkpoint.reader import TORCH, read, to_bytes
from surgeon.checkpoint.writer import Writer, lay_out
from surgeon.errors import SurgeonError
from surgeon.ops.plan import DEFAULT_SHARD_BYTES


def trained_tensors(
    model: Any, checkpoint: Checkpoint, trained: Iterable[str], values: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The trained tensors under their names in the checkpoint, float32; a tied one under each name it is stored.
    values: of all parameters by name, where the model's own are divided among processes.

    Names that transformers changes on loading (fused experts) are changed back by its own save_pretrained.
    Raises SurgeonError where names or shapes would differ from the checkpoint's.
    """
    wanted = set(trained)
    aliases: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        aliases.setdefault(id(parameter), []).append(name)
    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if name not in wanted:
            continue
        stored = [s for alias in aliases[id(parameter)] if (s := _stored_name(alias, parameter, model, checkpoint))]
        if not stored:
            return _saved(model, checkpoint, values)
        found |= dict.fromkeys(stored, parameter.detach() if values is None else values[name])
    return found


def write_tensors(
    folder: Path, stored: Mapping[str, StoredTensor], trained: Mapping[str, Tensor], single: str = SINGLE,
    index: Mapping[str, Any] | None = None,
) -> int:  # fmt: skip
    """Shards with every tensor of `stored`: trained ones rounded once to their stored type, the others' bytes as
    they are. index: what the index says beside its map, if there are several. Gives the number of bytes of data.
    Raises SurgeonError where a trained number does not fit."""
    entries = [(t.name, t.dtype, t.shape) for t in stored.values()]
    writer = Writer(folder, replace(lay_out(entries, DEFAULT_SHARD_BYTES, single), index=index or {}))
    try:
        for name, tensor in stored.items():
            if name in trained:
                writer.write(name, to_bytes(_rounded(trained[name], tensor)))
            else:
                writer.copy(name, tensor)
        writer.finish()
    finally:
        writer.close()
    return sum(t.nbytes for t in stored.values())


def _rounded(trained: Tensor, stored: StoredTensor) -> Tensor:
    """In the stored type. Raises SurgeonError where a number is too large for it, as float16 ends at 65,504."""
    found = trained.to("cpu", torch.float32).to(TORCH[stored.dtype])
    if not bool(found.isfinite().all()):
        raise SurgeonError(
            f"{stored.name} has grown to {float(trained.abs().max()):.4g}, which its stored type {stored.dtype} "
            "cannot hold",
            str(stored.path),
            "train at a lower --lr, or begin with the model in bfloat16 or float32",
        )
    return found


def adapter_tensors(
    model: Any, stored: Mapping[str, StoredTensor], adapter: Path, values: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The adapter's tensors as peft names them in its files. values: as in trained_tensors."""
    from peft import get_peft_model_state_dict

    given = None if values is None else _buffers(model) | dict(values)
    found = {name: t.detach() for name, t in get_peft_model_state_dict(model, state_dict=given).items()}
    if found.keys() != stored.keys():
        odd = sorted(found.keys() ^ stored.keys())[0]
        raise SurgeonError(
            f"peft names the adapter's tensors otherwise: {odd}", str(adapter), "make the adapter again"
        )
    return found


def _buffers(model: Any) -> dict[str, Tensor]:
    """Those that are saved, such as VeRA's projections; every process has them whole."""
    names = {name for name, _ in model.named_buffers(remove_duplicate=False)}  # layers share them
    return {name: t for name, t in model.state_dict().items() if name in names}


def _stored_name(name: str, parameter: Tensor, model: Any, checkpoint: Checkpoint) -> str | None:
    # old checkpoints of GPT-2 and others hold the bare base model: the library adds its prefix on loading
    prefix = f"{model.base_model_prefix}."
    for candidate in (name, name.removeprefix(prefix), prefix + name):
        held = checkpoint.tensors.get(candidate)
        if held is not None and held.shape == tuple(parameter.shape):
            return candidate
    return None


def _saved(model: Any, checkpoint: Checkpoint, values: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Every tensor by way of save_pretrained, whose conversion is the inverse of the one on loading."""
    with tempfile.TemporaryDirectory(prefix="surgeon-") as scratch:
        model.save_pretrained(scratch, state_dict=None if values is None else dict(values))
        held: dict[str, StoredTensor] = {}
        for path in sorted(Path(scratch).glob("*.safetensors")):
            held |= read_header(path)[0]
        wrong = sorted(
            name for name, t in held.items()
            if name not in checkpoint.tensors or checkpoint.tensors[name].shape != t.shape
        )  # fmt: skip
        missing = sorted(checkpoint.tensors.keys() - held.keys())
        if wrong or missing:
            raise SurgeonError(
                f"transformers saves other tensors than it loaded: {(wrong + missing)[0]}",
                str(checkpoint.path),
                "this architecture cannot be exported under its own names",
            )
        return {name: read(t) for name, t in held.items()}
