"""The digest of a file of weights: of its header and of each of its tensors, so that copied tensors need no reading.

    tensor  = BLAKE3 of the BLAKE3 digests of its pieces of 16 MiB, in order
    file    = BLAKE3 of a fixed first line, the BLAKE3 digest of the header (the 8 bytes of its length included), and
              the digests of the tensors in the order of their data; written `tree-blake3:` and hexadecimal

Digests are of 256 bits. BLAKE3 is six times as fast as SHA-256 here: reading costs more than hashing.
Every byte of the file is under it, as under a plain digest: a file is its header and, without holes, its tensors. But
where a tensor goes from one file to another unchanged, so does its digest, and the new file's digest follows without
reading it: it says what ought to be there, and `surgeon verify` reads what is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from blake3 import blake3

from surgeon.checkpoint.digest import file_digest
from surgeon.checkpoint.header import StoredTensor, header_bytes, read_header
from surgeon.errors import SurgeonError

TREE = "tree-blake3:"
LEAF = 1 << 24
_FIRST_LINE = b"surgeon tree of weights 2\n"
_READ = 1 << 20


@dataclass(frozen=True)
class WeightDigest:
    """`digest` of the file; `tensors`: name -> the hexadecimal digest of the tensor's bytes."""

    digest: str
    tensors: Mapping[str, str]


def weight_digest(path: Path, known: Mapping[str, str] | None = None, threads: int | None = None) -> WeightDigest:
    """Of one safetensors file; the tensors in `known` are not read. Raises SurgeonError on a damaged file."""
    return weight_digests([path], [known or {}], threads)[0]


def weight_digests(
    paths: Sequence[Path], known: Sequence[Mapping[str, str]] | None = None, threads: int | None = None
) -> list[WeightDigest]:
    """Of several files, read in pieces by some threads (blake3 releases the interpreter lock)."""
    reading = Reading(paths, known)
    with ThreadPoolExecutor(threads or min(os.cpu_count() or 1, 8)) as pool:
        list(pool.map(lambda read: read(), reading.jobs()))
    return reading.digests()


class Reading:
    """Several files of weights whose digests are wanted, read in pieces of 16 MiB by whoever carries out the jobs.
    known: for each file the tensors that need no reading. Raises SurgeonError on a damaged file."""

    def __init__(self, paths: Sequence[Path], known: Sequence[Mapping[str, str]] | None = None) -> None:
        self._files = [(path, list(read_header(path)[0].values())) for path in paths]
        self._known = known or [{} for _ in paths]
        wanted = zip(self._files, self._known, strict=True)
        self._wanted = [t for (_, tensors), have in wanted for t in tensors if t.name not in have]
        self._leaves: dict[tuple[Path, str, int], bytes] = {}

    def jobs(self) -> list[Callable[[], None]]:
        """One for each piece, in the order of the data."""
        return [partial(self._read, tensor, at) for tensor in self._wanted for at in range(0, tensor.nbytes, LEAF)]

    def _read(self, tensor: StoredTensor, at: int) -> None:
        leaf = leaf_digest(tensor.path, tensor.start + at, min(LEAF, tensor.nbytes - at))
        self._leaves[tensor.path, tensor.name, at] = leaf

    def digests(self) -> list[WeightDigest]:
        """Of the files in their order, when all jobs are done."""
        result = []
        for (path, tensors), have in zip(self._files, self._known, strict=True):
            own = {t.name: have[t.name] if t.name in have else self._digest(t) for t in tensors}
            result.append(WeightDigest(composed(header_bytes(path), own.values()), own))
        return result

    def _digest(self, tensor: StoredTensor) -> str:
        leaves = (self._leaves[tensor.path, tensor.name, at] for at in range(0, tensor.nbytes, LEAF))
        return blake3(b"".join(leaves)).hexdigest()


def zeros_digest(nbytes: int) -> str:
    """The digest of a tensor whose bytes are all zero."""
    full, rest = divmod(nbytes, LEAF)
    digests = _zero_leaf(LEAF) * full if full else b""
    return blake3(digests + (_zero_leaf(rest) if rest else b"")).hexdigest()


def tensor_digest(data: bytes) -> str:
    """The digest of a tensor with these bytes."""
    digests = (blake3(data[at : at + LEAF]).digest() for at in range(0, len(data), LEAF))
    return blake3(b"".join(digests)).hexdigest()


def digest_like(recorded: str, path: Path) -> str:
    """The digest of a file in the way in which another one was recorded, from its bytes; "damaged" where a file of
    weights cannot be taken apart."""
    if not recorded.startswith(TREE):
        return file_digest(path)
    try:
        return weight_digest(path).digest
    except SurgeonError:
        return "damaged"


def composed(header: bytes, digests: Iterable[str]) -> str:
    """The digest of a file with this header whose tensors, in the order of their data, have these digests."""
    whole = blake3(_FIRST_LINE + blake3(header).digest())
    for digest in digests:
        whole.update(bytes.fromhex(digest))
    return TREE + whole.hexdigest()


def leaf_digest(path: Path, position: int, count: int) -> bytes:
    """The digest of a piece of a tensor: `count` bytes of a file from `position` on."""
    digest = blake3()
    view = memoryview(bytearray(min(_READ, count)))
    with path.open("rb", buffering=0) as file:
        while count:
            got = os.preadv(file.fileno(), [view[: min(_READ, count)]], position)
            if got == 0:
                raise SurgeonError("a shard ends inside a tensor", str(path), "it changed while it was read")
            digest.update(view[:got])
            position, count = position + got, count - got
    return digest.digest()


@cache
def _zero_leaf(nbytes: int) -> bytes:
    digest, block = blake3(), bytes(min(_READ, nbytes))
    for at in range(0, nbytes, _READ):
        digest.update(block[: min(_READ, nbytes - at)])
    return digest.digest()
