"""What is wrong with a run is said before the weights are read: of a large model that takes minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from surgeon.errors import SurgeonError
from surgeon.train import job
from surgeon.train.settings import CptSettings


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"train": r"layers\.99\."}, "layers"),
        ({"train": "role:atention"}, "did you mean"),
        ({"train": "new-blocks"}, "no new blocks"),
        ({"group": ["absent:lr=1"]}, "no trained tensor"),
        ({"seq_len": 100_000}, "longer than the model's context"),
        ({"data": ["EMPTY"]}, "holds no text"),
        ({"tokens": 100, "data": ["SHORT"], "replay": ["ABSENT"]}, "ABSENT"),
    ],
)
def test_before_the_weights(
    words: dict[str, Any], told: str, stories: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {"EMPTY": tmp_path / "empty.jsonl", "SHORT": corpus}
    places["EMPTY"].write_text("")
    monkeypatch.setattr(job, "load_model", lambda *_, **__: pytest.fail("the weights were read"))
    given = {key: [str(places.get(v, v)) for v in held] if key == "data" else held for key, held in words.items()}
    settings = {"model": str(stories), "out": str(tmp_path / "out"), "data": [str(corpus)], "tokens": 512, "lr": 1e-3}
    with pytest.raises(SurgeonError) as error:
        job.prepare(CptSettings(**(settings | given)))
    assert told in str(error.value)


def test_the_weights_are_read_of_a_run_that_has_nothing_against_it(
    stories: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Read(Exception):  # noqa: N818
        pass

    def read(*_: Any, **__: Any) -> None:
        raise Read

    monkeypatch.setattr(job, "load_model", read)
    with pytest.raises(Read):
        job.prepare(
            CptSettings(model=str(stories), out=str(tmp_path / "out"), data=[str(corpus)], tokens=512, lr=1e-3)
        )
