"""One sum in two forms: compiled and with numpy; their bytes are those of float64 arithmetic rounded once."""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from merge_models import trained
from safetensors.torch import save_file

from surgeon.checkpoint.decode import RAW
from surgeon.checkpoint.header import read_header
from surgeon.checkpoint.rounding import round_once
from surgeon.errors import SurgeonError
from surgeon.merge.plan import MergeSettings, plan_merge
from surgeon.ops import compile_sum, fused_sum, sum_piece
from surgeon.ops.execute import execute
from surgeon.ops.sum_piece import SumPiece
from surgeon.ops.sum_program import Leaf, Segment, Term, WeightedSum

TORCH = {"BF16": torch.bfloat16, "F32": torch.float32, "F16": torch.float16, "F64": torch.float64}
ROWS, WIDTH = 37, 61


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    target = tmp_path_factory.mktemp("compiled") / "_fused_sum.so"
    missing = compile_sum.compile_sum(target)
    if missing:
        pytest.skip(f"nothing to compare: {missing}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused_sum, "LIBRARY", target)
        fused_sum.library.cache_clear()
        held = fused_sum.library()
    fused_sum.library.cache_clear()
    assert held is not None
    return held


@pytest.fixture(params=["compiled", "numpy"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    held = request.getfixturevalue("library") if request.param == "compiled" else None
    monkeypatch.setattr(fused_sum, "library", lambda: held)
    monkeypatch.setattr(sum_piece, "BLOCK", 256)
    name: str = request.param
    return name


def hard(seed: int, dtype: str) -> torch.Tensor:
    """Values of all sizes, zeros of both signs, numbers below the normal ones, and small differences, whose halves
    and tenths are ties."""
    drawn = torch.Generator().manual_seed(seed)
    values = torch.randn(ROWS, WIDTH, generator=drawn, dtype=torch.float64)
    values *= torch.exp2(
        torch.randint(
            -130 if dtype != "F16" else -14, 20 if dtype != "F16" else 8, (ROWS, 1), generator=drawn
        ).double()
    )
    values[3] = 0.0
    values[4] = -0.0
    values[:, 5] = torch.where(torch.arange(ROWS) % 2 == 0, 0.0, -0.0)
    steps = torch.randint(-9, 10, (ROWS, WIDTH), generator=drawn).double()
    values[10:20] = (1.0 + steps[10:20] * 2**-7) * torch.where(steps[10:20] > 3, -1, 1)
    return values.to(TORCH[dtype])


def stored(folder: Path, name: str, values: torch.Tensor) -> Leaf:
    path = folder / f"{name}.safetensors"
    save_file({"x": values.contiguous()}, path)
    return Leaf(read_header(path)[0]["x"], 0, str(folder))


def found(program: WeightedSum) -> torch.Tensor:
    """Computed twice: into one buffer, in runs of blocks, and block by block."""
    piece, width = SumPiece(program), program.width
    whole = np.empty(ROWS * width, RAW[program.dtype])
    parts = []
    for segment in program.segments:
        start, stop = segment.start * width, segment.stop * width
        list(piece.blocks(segment, start, stop, whole[start:stop]))
        parts += [block.tobytes() for block in piece.blocks(segment, start, stop)]
    assert whole.tobytes() == b"".join(parts)
    return torch.from_numpy(whole.view(np.uint8)).view(TORCH[program.dtype]).reshape(program.shape)


def meant(base: torch.Tensor | None, terms: list[tuple[float, torch.Tensor, torch.Tensor | None]]) -> torch.Tensor:
    total = torch.zeros(ROWS, WIDTH, dtype=torch.float64) if base is None else base.double().clone()
    for weight, values, first in terms:
        total += (values.double() - (0.0 if first is None else first.double())) * weight
    if base is not None:
        total = torch.where((total == 0) & (base == 0), base.double(), total)
    return total


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
@pytest.mark.parametrize("weights", [(1.0, 0.7), (0.5, 0.5), (-0.3, 1.0), (1.0, 0.0), (1 / 3, 2e-7)])
def test_both_forms_give_float64_rounded_once(
    form: str, tmp_path: Path, dtype: str, weights: tuple[float, float]
) -> None:
    base, one, two = hard(0, dtype), hard(1, dtype), hard(2, "BF16")
    two[25:] = (base[25:].double() * (1 + 2**-6)).to(torch.bfloat16)  # near the base
    leaves = (stored(tmp_path, "base", base), stored(tmp_path, "one", one), stored(tmp_path, "two", two))
    terms = (Term(weights[0], 1, 0), Term(weights[1], 2, 0))
    program = WeightedSum("x", dtype, (ROWS, WIDTH), leaves, (Segment(0, ROWS, 0, terms),), True, ("a", "b"))
    exact = meant(base, [(weights[0], one, base), (weights[1], two, base)])
    expected = round_once(exact, TORCH[dtype])
    assert torch.equal(found(program).view(torch.uint8), expected.view(torch.uint8))


def test_segments_shifts_and_absent_terms(form: str, tmp_path: Path) -> None:
    base, one = hard(3, "BF16"), hard(4, "F32")
    leaves = (
        stored(tmp_path, "base", base),
        stored(tmp_path, "one", one),
        Leaf(stored(tmp_path, "moved", one).stored, -20, ""),
        Leaf(stored(tmp_path, "first", base).stored, -20, ""),
    )
    segments = (
        Segment(0, 20, 0, (Term(1.0, None, None), Term(0.25, 1, 0))),
        Segment(20, 30, None, (Term(0.75, 2, 3), Term(1.0, None, None))),
        Segment(30, ROWS, 0, (Term(1.0, None, None), Term(1.0, None, None))),
    )
    program = WeightedSum("x", "BF16", (ROWS, WIDTH), leaves, segments, True, ("a", "b"))
    expected = torch.cat(
        [
            round_once(meant(base, [(0.25, one, base)]), torch.bfloat16)[:20],
            round_once(meant(None, [(0.75, one, base)]), torch.bfloat16)[:10],
            base[30:],
        ]
    )
    assert torch.equal(found(program).view(torch.uint8), expected.view(torch.uint8))


def test_without_a_base_the_first_term_begins(form: str, tmp_path: Path) -> None:
    one, two = hard(5, "BF16"), hard(6, "BF16")
    leaves = (stored(tmp_path, "one", one), stored(tmp_path, "two", two))
    segment = Segment(0, ROWS, None, (Term(1.0, 0, None), Term(0.0, 1, None)))
    program = WeightedSum("x", "BF16", (ROWS, WIDTH), leaves, (segment,), False, ())
    assert torch.equal(found(program), one)
    alone = Segment(0, ROWS, None, (Term(1.0, 0, None),))
    program = WeightedSum("x", "BF16", (ROWS, WIDTH), leaves, (alone,), False, ())
    assert torch.equal(found(program).view(torch.uint8), one.view(torch.uint8))  # the signs of zeros too


def test_both_forms_measure_the_same(library: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, one = hard(7, "BF16"), hard(8, "BF16")
    leaves = (stored(tmp_path, "base", base), stored(tmp_path, "one", one))
    program = WeightedSum("x", "BF16", (ROWS, WIDTH), leaves, (Segment(0, ROWS, 0, (Term(0.5, 1, 0),)),), True, ("a",))
    monkeypatch.setattr(sum_piece, "BLOCK", 256)
    sums = []
    for held in (library, None):
        monkeypatch.setattr(fused_sum, "library", lambda held=held: held)
        piece = SumPiece(program)
        list(piece.blocks(program.segments[0], 0, ROWS * WIDTH))
        sums.append(piece.sums.to_json())
    assert sums[0] == sums[1]


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_number_is_refused_by_name(form: str, tmp_path: Path, dtype: str, value: float) -> None:
    base, one = hard(0, dtype), hard(1, dtype)
    one[30, 7] = value
    leaves = (stored(tmp_path, "base", base), stored(tmp_path, "one", one))
    program = WeightedSum("x", dtype, (ROWS, WIDTH), leaves, (Segment(0, ROWS, 0, (Term(0.0, 1, 0),)),), True, ("a",))
    with pytest.raises(SurgeonError, match=rf"'x' holds .* at element {30 * WIDTH + 7:,}"):
        found(program)


def test_what_the_type_cannot_hold_is_refused(form: str, tmp_path: Path) -> None:
    base = torch.full((ROWS, WIDTH), 3e38, dtype=torch.bfloat16)
    leaves = (stored(tmp_path, "base", torch.zeros_like(base)), stored(tmp_path, "one", base))
    program = WeightedSum("x", "BF16", (ROWS, WIDTH), leaves, (Segment(0, ROWS, 0, (Term(2.0, 1, 0),)),), True, ("a",))
    with pytest.raises(SurgeonError, match="cannot hold") as refused:
        found(program)
    assert refused.value.hint == "give smaller weights"  # it is bfloat16 already


@pytest.mark.parametrize("short", [0, 1])
def test_a_file_that_became_shorter_is_refused_by_name(form: str, tmp_path: Path, short: int) -> None:
    leaves = (stored(tmp_path, "base", hard(0, "BF16")), stored(tmp_path, "one", hard(1, "BF16")))
    os.truncate(leaves[short].stored.path, leaves[short].stored.start + 100)
    program = WeightedSum("x", "BF16", (ROWS, WIDTH), leaves, (Segment(0, ROWS, 0, (Term(2.0, 1, 0),)),), True, ("a",))
    with pytest.raises(SurgeonError, match="ends inside tensor") as refused:
        found(program)
    assert refused.value.where == str(leaves[short].stored.path)


def test_other_types_go_through_numpy(library: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_sum, "library", lambda: library)
    base, one = hard(0, "F16"), hard(1, "F64")
    leaves = (stored(tmp_path, "base", base), stored(tmp_path, "one", one))
    program = WeightedSum("x", "F64", (ROWS, WIDTH), leaves, (Segment(0, ROWS, 0, (Term(0.5, 1, 0),)),), True, ("a",))
    assert torch.equal(found(program), meant(base, [(0.5, one, base)]))


def test_a_whole_merge_has_the_same_bytes_in_both_forms(
    library: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny.build("llama", tmp_path / "base", dtype="bfloat16")
    tuned = trained(base, tmp_path / "tuned", 1, lineage=False)
    outs = []
    for number, held in enumerate((library, None)):
        monkeypatch.setattr(fused_sum, "library", lambda held=held: held)
        out = tmp_path / str(number)
        execute(plan_merge(MergeSettings(base=str(base), out=out, add=[f"{tuned}=0.5"])), out)
        outs.append({p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()})
    assert outs[0] == outs[1]


def test_a_library_of_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other.c"
    other.write_text(compile_sum.SOURCE.read_text(encoding="utf-8") + "/* changed */\n", encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(compile_sum, "SOURCE", other)
        if compile_sum.compile_sum(tmp_path / "other.so"):
            pytest.skip("there is no C compiler")
    monkeypatch.setattr(fused_sum, "LIBRARY", tmp_path / "other.so")
    fused_sum.library.cache_clear()
    try:
        with pytest.raises(SurgeonError, match="another version"):
            fused_sum.library()
    finally:
        fused_sum.library.cache_clear()


@pytest.mark.parametrize("held", ["not a library", "int something_else(void) { return 1; }"])
def test_a_library_that_cannot_be_loaded_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: str
) -> None:
    target = tmp_path / "other.so"
    target.write_text(held)
    if held.endswith("}"):
        monkeypatch.setattr(compile_sum, "SOURCE", tmp_path / "other.c")
        compile_sum.SOURCE.write_text(held)
        if compile_sum.compile_sum(target):
            pytest.skip("there is no C compiler")
    monkeypatch.setattr(fused_sum, "LIBRARY", target)
    fused_sum.library.cache_clear()
    try:
        with pytest.raises(SurgeonError, match="cannot be loaded") as refused:
            fused_sum.library()
        assert refused.value.where == str(target)
    finally:
        fused_sum.library.cache_clear()


def test_without_a_compiler_there_is_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "_fused_sum.so"
    for compiler, said in (("/nowhere/cc", "cannot be run"), (shutil.which("false") or "false", "status 1")):
        target.write_bytes(b"an older one")
        monkeypatch.setenv("CC", compiler)
        assert said in str(compile_sum.compile_sum(target))
        assert not target.exists()
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compile_sum.compile_sum(target) == "there is no C compiler"


def test_a_tree_that_cannot_be_written_gets_no_library(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    assert "cannot be written" in str(compile_sum.compile_sum(tmp_path / "absent" / "_fused_sum.so"))


def test_the_argument_structures_are_those_of_the_source() -> None:
    assert ctypes.sizeof(fused_sum._Leaf) == struct.calcsize("@iiq")
    assert ctypes.sizeof(fused_sum._Term) == struct.calcsize("@iid")
    source = compile_sum.SOURCE.read_text(encoding="utf-8")
    assert f"#define MOST_LEAVES {fused_sum._MOST_LEAVES}" in source
