"""The table of an evaluation, its words, the curves behind the plots and the picture of a block map."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from surgeon import words
from surgeon.checkpoint.lineage import BlockMap, NewBlock
from surgeon.errors import SurgeonError, UsageError
from surgeon.report.block_map import COLUMNS, strips
from surgeon.report.curves import EvalPoint, Step, Training, curves
from surgeon.report.table import Cell, evaluation_table, rich_table


def result(*models: tuple[str, dict[str, tuple[float | None, float | None]]]) -> dict[str, Any]:
    return {
        "models": [
            {"model": m, "corpora": [{"name": n, "bits_per_byte": b, "tokens_per_byte": t} for n, (b, t) in c.items()]}
            for m, c in models
        ]
    }


def printed(table: Any, width: int = 80, colour: bool = False) -> str:
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=colour, color_system="standard" if colour else None).print(table)
    return out.getvalue()


QUICKSTART = result(
    ("/runs/x/base", {"general": (1.0, 0.31), "domain": (2.4, 0.53), "instruction": (1.7, 0.4)}),
    ("org/instruct", {"general": (1.08, 0.31), "domain": (2.43, 0.53), "instruction": (1.1, 0.4)}),
    ("merged", {"domain": (1.7, 0.41), "general": (1.0, 0.31)}),
)


def test_rows() -> None:
    rows = evaluation_table(QUICKSTART)
    assert [row.model for row in rows] == ["base", "org/instruct", "merged"]
    assert rows[0].cells[0] == Cell("general", 1.0, None, 0.31)
    assert rows[1].cells[2].change == pytest.approx(100 * (1.1 / 1.7 - 1), rel=1e-12)
    assert rows[2].cells == (
        Cell("general", 1.0, 0.0, 0.31),
        Cell("domain", 1.7, pytest.approx(100 * (1.7 / 2.4 - 1)), 0.41),
        Cell("instruction", None, None, None),
    )


def test_order_and_names() -> None:
    rows = evaluation_table(QUICKSTART, ["domain", "general"], names={"/runs/x/base": "the base"})
    assert rows[0].model == "the base"
    assert [c.corpus for c in rows[0].cells] == ["domain", "general"]
    with pytest.raises(UsageError, match="'domian'") as caught:
        evaluation_table(QUICKSTART, ["domian"])
    assert "domain" in caught.value.hint


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({}, "Field required"),
        ({"models": [{"model": "m", "corpora": [{"name": "c", "bits_per_byte": "1.2"}]}]}, "valid number"),
        ({"models": [{"model": "m", "corpora": [{"name": "c"}, {"name": "c"}]}]}, "'c' is twice"),
    ],
)
def test_refusals(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(SurgeonError, match=said):
        evaluation_table(wrong)


def test_terminal_table_is_plain_ascii_and_fits() -> None:
    text = printed(rich_table(evaluation_table(QUICKSTART)))
    assert text.isascii() and max(map(len, text.splitlines())) <= 80
    lines = [line.split() for line in text.splitlines()]
    assert [
        "merged",
        "|",
        "1.000",
        "0.0%",
        "|",
        "0.310",
        "|",
        "1.700",
        "-29.2%",
        "|",
        "0.410",
        "|",
        "-",
        "|",
        "-",
    ] in lines


def test_terminal_colours_and_markup() -> None:
    text = printed(rich_table(evaluation_table(QUICKSTART)), colour=True)
    assert "\x1b[32m -35.3%" in text or "\x1b[32m-35.3%" in text
    assert "\x1b[31m  +8.0%" in text or "\x1b[31m +8.0%" in text
    hostile = result(("[bold red]m[/]\x1b[2J", {"[/nonsense]": (1.0, 0.3)}))
    text = printed(rich_table(evaluation_table(hostile)), width=120)
    assert "[bold red]m[/]\\x1b[2J" in text and "[/nonsense]" in text and "\x1b" not in text


def test_no_rows() -> None:
    assert evaluation_table({"models": []}) == []
    assert "model" in printed(rich_table([]))


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=20))
def test_visible_is_printable_and_keeps_what_is(text: str) -> None:
    shown = words.visible(text)
    shown.encode("utf-8")
    assert all(c.isprintable() or c.isspace() for c in shown)
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or 0x202A <= ord(c) <= 0x202E for c in shown)
    if text.isprintable():
        assert shown == text


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (words.percent(-12.34), "-12.3%"),
        (words.percent(0.04), "0.0%"),
        (words.percent(-0.04), "0.0%"),
        (words.percent(None), "–"),
        (words.direction(-0.04), "same"),
        (words.direction(-1.0), "better"),
        (words.direction(1.0), "worse"),
        (words.direction(math.nan), "same"),
        (words.short(1_500_000), "1.5M"),
        (words.short(512), "512"),
        (words.duration(0.44), "0.4 s"),
        (words.duration(59.7), "1 min 00 s"),
        (words.duration(95), "1 min 35 s"),
        (words.duration(3599.9), "1 h 00 min"),
        (words.duration(None), "–"),
        (words.plain(["domain=/a/b/c.jsonl:0.5", 3]), "domain=c.jsonl:0.5, 3"),
        (words.plain("mlp/.*/down"), "mlp/.*/down"),
        (words.plain(True), "yes"),
        (words.plain("x" * 500), "x" * words.LONGEST + " … (500 characters)"),
        (words.model_label("/runs/x/stages/domain-0ab1/"), "domain-0ab1"),
        (words.model_label("org/name"), "org/name"),
    ],
)
def test_words(shown: str, expected: str) -> None:
    assert shown == expected


def test_pairs_leave_out_what_says_nothing() -> None:
    values = {
        "a": None,
        "b": [],
        "c": {"d": 1, "e": None},
        "out": "x",
        "f": False,
        "g": [{"name": "x", "n": 0}, {"n": 2}],
    }
    assert words.pairs(values, ("out",)) == [("c.d", "1"), ("f", "no"), ("g.x.n", "0"), ("g.1.n", "2")]


def training(steps: list[Step], evals: list[EvalPoint] | None = None) -> Training:
    return Training("t", None, None, steps, [], evals or [])


def test_thinned_curve_keeps_the_mean() -> None:
    steps = [Step(step=i, tokens=10 * i, loss=float(i % 7)) for i in range(1, 1001)]
    drawn = curves(training(steps))
    assert (drawn.group, len(drawn.loss.y), drawn.axis) == (3, 334, "tokens")
    weights = [3] * 333 + [1]
    total = math.fsum(w * y for w, y in zip(weights, drawn.loss.y, strict=True))
    assert total == pytest.approx(math.fsum(s.loss or 0.0 for s in steps), rel=1e-12)


def test_step_without_loss_is_left_out_and_one_that_diverged_is_a_gap() -> None:
    steps = [Step(step=0, tokens=0), Step(step=1, tokens=8, loss=2.0), Step(step=2, tokens=16, loss=math.inf)]
    line = curves(training(steps)).loss
    assert line.x == [8.0, 16.0] and line.y[0] == 2.0 and math.isnan(line.y[1])


def test_evaluations_are_placed_at_their_tokens() -> None:
    steps = [Step(step=1, tokens=100, loss=1.0), Step(step=2, tokens=250, loss=1.0)]
    evals = [EvalPoint(step=s, name="general", bits_per_byte=1.0) for s in (0, 2)]
    assert curves(training(steps, evals)).evals[0].x == [0.0, 250.0]
    unknown = [*evals, EvalPoint(step=5, name="general", bits_per_byte=1.0)]
    drawn = curves(training(steps, unknown))
    assert (drawn.eval_axis, drawn.evals[0].x) == ("step", [0.0, 2.0, 5.0]), "no tokens are invented for step 5"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=70))
def test_block_map_draws_every_block_once_inside_its_strip(source: list[int]) -> None:
    new = [NewBlock(block=i, source=s, fill="zero") for i, s in enumerate(source) if s in source[:i]]
    drawn = strips(BlockMap(source=source, new=new))
    boxes = [box for strip in drawn for box in strip.blocks]
    assert [(b.block, b.source) for b in boxes] == list(enumerate(source))
    assert {b.block for b in boxes if b.fill is not None} == {n.block for n in new}
    for strip in drawn:
        assert len(strip.blocks) == len(strip.links) <= COLUMNS
        for row in (strip.blocks, strip.sources):
            assert all(b.x >= 0 and b.x + strip.box <= strip.width for b in row)
            assert all(a.x + strip.box <= b.x for a, b in pairwise(row)), "no two overlap"


def test_importing_the_report_loads_neither_torch_nor_matplotlib() -> None:
    root = Path(__file__).resolve().parents[2]
    names = ("torch", "matplotlib", "transformers")
    code = f"import sys, surgeon.report.html; print([m for m in {names} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
