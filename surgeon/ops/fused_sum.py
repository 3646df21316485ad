"""The weighted sum of fused_sum.c, where a C compiler was there when surgeon was installed; the bits are the same."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgeon.checkpoint.decode import cut_off
from surgeon.errors import SurgeonError
from surgeon.ops.compile_sum import source_digest
from surgeon.ops.sum_program import Segment, WeightedSum

LIBRARY = Path(__file__).with_name("_fused_sum.so")
_TYPES = {"BF16": 0, "F32": 1}
_MOST_LEAVES = 64
_NOT_FINITE = -1


class _Leaf(ctypes.Structure):
    _fields_ = (("file", ctypes.c_int32), ("type", ctypes.c_int32), ("position", ctypes.c_int64))


class _Term(ctypes.Structure):
    _fields_ = (("values", ctypes.c_int32), ("first", ctypes.c_int32), ("weight", ctypes.c_double))


@cache
def library() -> ctypes.CDLL | None:
    """None where it was not built. Raises SurgeonError where it was built from another version of the source, or for
    another machine."""
    if not LIBRARY.is_file():
        return None
    mend = "install surgeon again, or remove it"
    try:
        held = ctypes.CDLL(str(LIBRARY))
        held.surgeon_fused_sum_source.restype = ctypes.c_char_p
        source = held.surgeon_fused_sum_source().decode("ascii")
    except (OSError, AttributeError) as error:
        raise SurgeonError("the compiled sum cannot be loaded", str(LIBRARY), mend) from error
    if source != source_digest():
        raise SurgeonError("the compiled sum is of another version than surgeon", str(LIBRARY), mend)
    size, pointer = ctypes.c_size_t, ctypes.c_void_p
    number = ctypes.c_int
    held.surgeon_fused_sum.argtypes = [
        size, pointer, number, size, pointer, number, size, pointer, number, size, pointer, pointer,
    ]  # fmt: skip
    return held


class FusedSum:
    """Computes segments, reading what they need; for one thread. It works without the interpreter's lock, so that
    threads do not wait for each other. block: elements that are read at a time."""

    def __init__(self, block: int) -> None:
        self._library, self._block = library(), block
        self._scratch = np.empty(0, np.float32)

    def serves(self, program: WeightedSum, segment: Segment) -> bool:
        """Whether it is there, and knows the types."""
        types = [program.dtype, *(program.leaves[leaf].stored.dtype for leaf in segment.leaves)]
        few = len(segment.leaves) <= _MOST_LEAVES
        return self._library is not None and few and all(t in _TYPES for t in types)

    def store(
        self, program: WeightedSum, segment: Segment, handles: Mapping[int, int], at: int, raw: NDArray[Any],
        change: NDArray[np.float32] | None,
    ) -> bool:  # fmt: skip
        """Put the stored elements of the output from `at` on into `raw`; whether all of them are finite. handles: the
        open files of the leaves. change: where the total less the base goes, rounded to float32."""
        assert self._library is not None
        slots = {leaf: slot for slot, leaf in enumerate(handles)}
        leaves = (_Leaf * len(slots))()
        for leaf, slot in slots.items():
            stored, row = program.leaves[leaf].stored, program.leaves[leaf].shift * program.width
            size = 2 if stored.dtype == "BF16" else 4
            leaves[slot] = _Leaf(handles[leaf], _TYPES[stored.dtype], stored.start + (at + row) * size)
        terms = (_Term * len(segment.terms))()
        for number, term in enumerate(segment.terms):
            values, first = (-1 if leaf is None else slots[leaf] for leaf in (term.values, term.first))
            terms[number] = _Term(values, first, term.weight)
        if len(self._scratch) < len(slots) * self._block:
            self._scratch = np.empty(len(slots) * self._block, np.float32)
        found = self._library.surgeon_fused_sum(
            len(raw), raw.ctypes.data, _TYPES[program.dtype],
            len(slots), ctypes.addressof(leaves), -1 if segment.base is None else slots[segment.base],
            len(terms), ctypes.addressof(terms), program.has_base,
            self._block, self._scratch.ctypes.data, None if change is None else change.ctypes.data,
        )  # fmt: skip
        if found == errno.ENODATA:
            held = {leaf: program.leaves[leaf].stored for leaf in slots}
            short = [s for leaf, s in held.items() if os.fstat(handles[leaf]).st_size < s.start + s.nbytes]
            raise cut_off((short or list(held.values()))[0])
        if found > 0:  # which of them it was is not told
            where = ", ".join(str(program.leaves[leaf].stored.path) for leaf in slots)
            raise OSError(found, os.strerror(found), where)
        return bool(found != _NOT_FINITE)
