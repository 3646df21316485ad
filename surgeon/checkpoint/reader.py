"""Reading a stored tensor, or some of its rows, from its file; inputs are opened read-only."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from surgeon.checkpoint.header import StoredTensor
from surgeon.errors import SurgeonError

TORCH: dict[str, torch.dtype] = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8,
    "BOOL": torch.bool, "C64": torch.complex64, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
}  # fmt: skip
CODE: dict[torch.dtype, str] = {dtype: code for code, dtype in TORCH.items()}


def read(stored: StoredTensor, rows: tuple[int, int] | None = None) -> Tensor:
    """The tensor in its stored dtype and in memory of its own; `rows` = (start, stop) of the first dimension."""
    start, nbytes, shape = stored.start, stored.nbytes, stored.shape
    if rows is not None:
        row_bytes = nbytes // shape[0] if shape[0] else 0
        start, nbytes = start + rows[0] * row_bytes, (rows[1] - rows[0]) * row_bytes
        shape = (rows[1] - rows[0], *shape[1:])
    buffer = bytearray(nbytes)
    view = memoryview(buffer)
    with stored.path.open("rb", buffering=0) as file:
        position = 0
        while position < nbytes:
            got = os.preadv(file.fileno(), [view[position : position + (1 << 30)]], start + position)
            if got == 0:
                raise SurgeonError(
                    f"the shard ends inside tensor {stored.name!r}",
                    str(stored.path),
                    "it changed while it was read",
                )
            position += got
    if nbytes == 0:
        return torch.empty(shape, dtype=TORCH[stored.dtype])
    return torch.frombuffer(buffer, dtype=torch.uint8).view(TORCH[stored.dtype]).reshape(shape)


def to_bytes(tensor: Tensor) -> memoryview:
    """The tensor's bytes in C order."""
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")
