"""The digest of a file of weights: as described, under every byte, and composed as it is read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from blake3 import blake3
from safetensors.torch import save_file

from surgeon.checkpoint import tree_digest
from surgeon.checkpoint.digest import file_digest
from surgeon.checkpoint.header import read_header
from surgeon.checkpoint.tree_digest import digest_like, tensor_digest, weight_digest, weight_digests, zeros_digest


@pytest.fixture
def path(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "wide": torch.randn(7, 3, dtype=torch.float64, generator=generator),
        "matrix": torch.randn(40, 11, generator=generator),
        "narrow": torch.randn(5, generator=generator).to(torch.bfloat16),
        "empty": torch.empty(0, 4),
        "zero": torch.zeros(50, 20),
    }
    save_file(tensors, tmp_path / "x.safetensors", {"format": "pt"})
    return tmp_path / "x.safetensors"


def described(path: Path, leaf: int) -> str:
    """The module's docstring, word for word."""
    raw, tensors = path.read_bytes(), read_header(path)[0]
    data = 8 + int.from_bytes(raw[:8], "little")
    whole = b"surgeon tree of weights 2\n" + blake3(raw[:data]).digest()
    for t in sorted(tensors.values(), key=lambda t: (t.start, t.name)):
        held = raw[t.start : t.start + t.nbytes]
        pieces = [blake3(held[i : i + leaf]).digest() for i in range(0, len(held), leaf)]
        whole += blake3(b"".join(pieces)).digest()
    return "tree-blake3:" + blake3(whole).hexdigest()


@pytest.mark.parametrize("leaf", [64, 1760, 1 << 24])
def test_it_is_the_described_one_for_any_threads(path: Path, monkeypatch: pytest.MonkeyPatch, leaf: int) -> None:
    monkeypatch.setattr(tree_digest, "LEAF", leaf)
    monkeypatch.setattr(tree_digest, "_READ", 48)
    expected = described(path, leaf)
    for threads in (1, 3):
        assert weight_digest(path, threads=threads).digest == expected
    found = weight_digest(path)
    held = {name: path.read_bytes()[t.start : t.start + t.nbytes] for name, t in read_header(path)[0].items()}
    assert found.tensors == {name: tensor_digest(raw) for name, raw in held.items()}
    assert found.tensors["zero"] == zeros_digest(4000) and found.tensors["empty"] == zeros_digest(0)


def test_what_is_known_is_not_read_and_gives_the_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = weight_digest(path)
    some = {name: whole.tensors[name] for name in ("wide", "zero")}
    assert weight_digests([path, path], [some, {}]) == [whole, whole]
    monkeypatch.setattr(tree_digest, "leaf_digest", None)
    assert weight_digest(path, whole.tensors) == whole


def test_every_bit_is_under_it(path: Path) -> None:
    recorded, raw = weight_digest(path).digest, path.read_bytes()
    assert digest_like(recorded, path) == recorded
    for position in range(len(raw)):
        changed = bytearray(raw)
        changed[position] ^= 1 << (position % 8)
        path.write_bytes(changed)
        assert digest_like(recorded, path) != recorded, position
    for cut in (raw[:-1], raw + b"x", raw[:20], b""):
        path.write_bytes(cut)
        assert digest_like(recorded, path) == "damaged"


def test_two_tensors_in_each_others_place_differ(tmp_path: Path) -> None:
    a, b = torch.arange(4.0), torch.arange(4.0) + 9
    save_file({"a": a, "b": b}, tmp_path / "one.safetensors")
    save_file({"a": b, "b": a}, tmp_path / "other.safetensors")
    one, other = weight_digests([tmp_path / "one.safetensors", tmp_path / "other.safetensors"])
    assert one.digest != other.digest and one.tensors["a"] == other.tensors["b"]


def test_plain_digests_are_still_read(path: Path) -> None:
    assert digest_like(file_digest(path), path) == file_digest(path)
