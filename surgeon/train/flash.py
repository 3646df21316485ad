"""The flash kernel that attends by lengths: torch's own, or flash-attention 3 where it is installed and holds.

torch calls flash-attention 3 in place of its own kernel once it is told to (torch.nn.attention), in the whole process.
It is written for GPUs of compute capability 9 (H100, H200); benchmarks/README.md has what it saves there.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence

import torch
from torch.nn import attention as torch_attention

from surgeon.train.segments import HALF, Call, kernel_holds, rows_hold

KERNEL, PACKAGE, MAJOR = "FA3", "flash_attn_interface", 9
_why_not = ""  # it is installed and not used


def choose(calls: Sequence[Call], device: torch.device, dtype: torch.dtype, *, dropout: bool) -> bool:
    """Whether torch's own kernel serves such calls on the device, outputs and gradients (see kernel_holds). If
    flash-attention 3 is there and serves them too, torch calls it from here on, else its own.

    A choice before this one stays right: torch's own kernel was tried for it. dropout: whether the model has some in
    its attention; training does not come to the kernel then, and flash-attention 3 would refuse what does.
    """
    global _why_not
    _why_not = ""
    restore()
    if not kernel_holds(calls, device, dtype):
        return False
    if device.type != "cuda" or dtype not in HALF or importlib.util.find_spec(PACKAGE) is None:
        return True
    if torch.cuda.get_device_capability(device)[0] != MAJOR:
        return True
    if dropout:
        _why_not = "has no dropout, which the model's attention has"
    else:
        _why_not = _activated() or _served(calls, device, dtype)
    if _why_not:
        restore()
    return True


def chosen() -> str | None:
    """The name that torch has for the kernel it calls in place of its own; None for its own."""
    return torch_attention.current_flash_attention_impl()


def note() -> str | None:
    """What is to be said of the kernel; None where there is torch's own and no other."""
    if chosen() == KERNEL:
        return "documents are attended to by flash-attention 3"
    if _why_not:
        return f"flash-attention 3 is installed and {_why_not}: torch's own kernel is used"
    return None


def restore() -> None:
    """Let torch call its own kernel again."""
    if chosen() == KERNEL:
        torch_attention.restore_flash_attention_impl()


def _activated() -> str:
    """Why it cannot be, if so: packages of it are built for releases of torch and of CUDA."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own kernel is overridden: that is what was asked for
            torch_attention.activate_flash_attention_impl(KERNEL)
    except (ImportError, OSError, RuntimeError, AttributeError, ValueError) as error:
        return f"does not load ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
    return ""


def _served(calls: Sequence[Call], device: torch.device, dtype: torch.dtype) -> str:
    held = kernel_holds(calls, device, dtype) and rows_hold(calls, device, dtype)
    return "" if held else "does not serve this model"
