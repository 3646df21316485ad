"""The blocks of a model as the engine handles them: compiled one by one, and computed again on the way back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint as torch_checkpoint

from surgeon.errors import SurgeonError, UsageError
from surgeon.train.trainable import Trainable, block_prefix

ROOM = 0.9  # of a GPU's free memory: an estimate is one


def blocks_of(model: Any) -> nn.ModuleList:
    """The list of blocks."""
    found = model.get_submodule(block_prefix(model).rstrip("."))
    assert isinstance(found, nn.ModuleList)
    return found


def compile_blocks(model: Any) -> None:
    """torch.compile of every block by itself: equal blocks share one graph, and compiling takes the time of one."""
    import torch._dynamo

    # graphs of one code: blocks below, in and between the trained ones, with a teacher's passes, each with a first
    # and a general length; torch leaves blocks uncompiled beyond 8, and only logs it
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 32)
    for block in blocks_of(model):
        block.compile()


@contextmanager
def compiling() -> Iterator[None]:
    """Where the compiler gives up (a machine without a C compiler, say), what to do is told instead of a traceback."""
    try:
        yield
    except RuntimeError as error:
        from torch._dynamo.exc import BackendCompilerFailed  # loaded, or nothing was compiled

        if not isinstance(error, BackendCompilerFailed):
            raise
        reason = str(error).split("\n")[0].split(" Set TORCHDYNAMO_VERBOSE")[0].strip()
        raise SurgeonError(
            f"torch cannot compile the model's blocks here: {reason}",
            "torch.compile",
            "give --no-compile, or install what it asks for",
        ) from error


def checkpoint(model: Any, trainable: Trainable, how: str, device: torch.device, need: Mapping[str, int]) -> bool:
    """Set activation checkpointing of the blocks that have a graph: from the lowest trained one on; below it nothing
    is held anyway. how: auto (on a GPU into which `need` does not fit), none, blocks. Gives whether it is on.

    Raises UsageError where the model's blocks know of no checkpointing and it was asked for, or is needed.
    """
    if how == "none" or (how == "auto" and not _too_large(device, need["total"])):
        return False
    check_checkpointing(model, how)
    held = blocks_of(model)
    lowest = len(held) if trainable.lowest_block is None else trainable.lowest_block
    for number, block in enumerate(held):
        state: Any = block
        state.gradient_checkpointing = number >= lowest
        state._gradient_checkpointing_func = partial(torch_checkpoint, use_reentrant=False)
    return True


def check_checkpointing(model: Any, how: str) -> None:
    """Refuse a model, loaded or not, whose blocks know of no checkpointing. Raises UsageError."""
    if not all(hasattr(block, "gradient_checkpointing") for block in blocks_of(model)):
        too_large = " and would not fit into the GPU otherwise" if how == "auto" else ""
        raise UsageError(
            f"the blocks of {type(model).__name__} cannot be computed again on the way back{too_large}",
            f"--checkpointing {how}",
            "use --checkpointing none and a smaller --micro-batch",
        )


def _too_large(device: torch.device, need: int) -> bool:
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return need > ROOM * free
