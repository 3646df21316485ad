"""1_0 is ten to Python and a slip to a person: refused wherever words are read as numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import BaseModel, Field

from surgeon import registry
from surgeon.adapters.weights import weighted
from surgeon.cli.numbers import share_of
from surgeon.context.scaling import parse_scaling
from surgeon.data.numbers import Count, parse_count
from surgeon.data.stages import parse_stages as parse_mixture
from surgeon.errors import UsageError
from surgeon.merge.average_weights import average_weights
from surgeon.merge.graded import parse
from surgeon.merge.weights import parse_weight
from surgeon.number import fraction, misread, number
from surgeon.settings import resolve
from surgeon.train.batch_ramp import check_ramp
from surgeon.train.groups import parse_group
from surgeon.train.lengths import parse_stages

WORDS = ("1_0", "0_1", "1_0.5", "1.0_5", "1e1_0", "\u0661", "\uff11")
READERS: dict[str, Callable[[str], object]] = {
    "weight": lambda word: parse_weight(f"model={word}"),
    "curve": lambda word: parse(f"0.5,attention:1,{word}", "--option t"),
    "share": lambda word: share_of("--share", word),
    "percent": lambda word: share_of("--share", f"{word}%"),
    "adapter": lambda word: weighted(f"adapter={word}", "a"),
    "group": lambda word: parse_group(f"embed:lr={word}"),
    "scaling": lambda word: parse_scaling(f"yarn:{word}"),
    "ramp": lambda word: check_ramp(f"16k:{word}"),
    "lengths": lambda word: parse_stages(f"512:{word},1024:0.5"),
    "mixture": lambda word: parse_mixture([f"1:a={word}"], ["a"]),
    "average": lambda word: average_weights(f"ema:{word}", 3),
    "weights": lambda word: average_weights(f"0.5,{word}", 2),
    "option": lambda word: registry.get("merge", "ties").bind({"density": word}),
}


class Example(BaseModel):
    lr: float = 1.0
    rank: Annotated[int, Field(ge=1)] | None = None
    blocks: list[int] | None = None
    tokens: Count | None = None
    budget: Count = 1
    name: str | None = None


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("word", WORDS)
def test_every_reader_refuses(reader: str, word: str) -> None:
    with pytest.raises(UsageError):
        READERS[reader](word)


@pytest.mark.parametrize("key", ["lr", "rank", "blocks"])
def test_settings_refuse(key: str) -> None:
    with pytest.raises(UsageError, match="is not a number") as caught:
        resolve(Example, flags={key: "1_0"})
    assert caught.value.where == f"--{key}"
    with pytest.raises(UsageError, match="is not a number"):
        resolve(Example, recipe={key: "1_0"})


def test_what_else_holds_an_underscore() -> None:
    settings, _ = resolve(Example, flags={"tokens": "1_000", "budget": "2_000", "name": "1_0", "lr": " 1e-3 "})
    assert (settings.tokens, settings.budget, settings.name, settings.lr) == (1000, 2000, "1_0", 1e-3)
    assert misread(int | str, "1_0") is None and misread(list[float], ["1", "1_0"]) == "1_0"


def test_groups_of_three_digits() -> None:
    assert [parse_count(w) for w in ("1,000", "12_345_678", "1,500k", "1000")] == [1000, 12_345_678, 1_500_000, 1000]
    for word in ("1,5M", "1_0", "10_00", "1,0000", "1,000_000", "\u0661"):
        with pytest.raises(ValueError, match="not a count"):
            parse_count(word)


def test_numbers() -> None:
    assert [number(word) for word in ("1", " -2.5e-3 ", 3, "inf")] == [1, -0.0025, 3, float("inf")]
    assert fraction("1/4") * 4 == 1
    with pytest.raises(ValueError, match="not a number"):
        fraction("1/1_0")


def test_a_model_of_the_whole_name(tmp_path: Path) -> None:
    (tmp_path / "m=1_0").mkdir()
    assert parse_weight(str(tmp_path / "m=1_0"))[0] == str(tmp_path / "m=1_0")
