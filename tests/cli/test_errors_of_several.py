"""Under a real torchrun: what all processes refuse is said once, what one of them refuses is said by that one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torchrun import torchrun

PROGRAM = Path(__file__).with_name("refusals_of_several.py")
SIZES = ["--tokens", "256", "--seq-len", "32", "--batch-tokens", "64", "--device", "cpu", "--quiet"]


def refused(here: Path, processes: int, *words: list[str]) -> tuple[list[str], list[str], str]:
    """(the lines of errors, the codes that the processes ended with, all of stderr)."""
    done = torchrun(PROGRAM, json.dumps(words), processes=processes, cwd=here)
    assert done.returncode, done.stderr
    starts = ("error: ", "where: ", " mend: ")
    said = [line for line in done.stderr.splitlines() if line.startswith(starts)]
    codes = [path.read_text() for path in sorted(here.glob("code-*"))]
    assert not (here / "out").exists()
    return said, codes, done.stderr


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "text.jsonl").write_text('{"text": "Once upon a time there was a little dog who ran."}\n' * 20)
    return tmp_path


def cpt(model: Path | str, *more: str) -> list[str]:
    return ["cpt", str(model), "out", "--data", "text.jsonl", *SIZES, *more]


def test_what_all_refuse_is_said_once(here: Path, stories: Path) -> None:
    """In the midst of things: the model is divided, and then a method refuses."""
    said, codes, text = refused(here, 2, cpt(stories, "--objective", "designed_targets:feedback=text.jsonl"))
    assert len(said) == 3 and "needs the whole model in one process" in said[0] and "designed_targets" in said[1], text
    assert codes == ["2", "2"] and not (here / "out.run").exists()
    assert text.count("exitcode  : 2 ") == 2, text  # none was ended by a signal, its own or the launcher's


@pytest.mark.long
def test_wrong_words_are_said_once(here: Path, stories: Path) -> None:
    """Before the processes have met."""
    said, codes, text = refused(here, 3, cpt(stories, "--train", "nothing-of-it", "--objective", "none-such"))
    assert len(said) == 3 and "none-such" in "".join(said), text
    assert codes == ["2", "2", "2"] and not (here / "out.run").exists()


def test_what_one_refuses_is_said_by_that_one(here: Path, stories: Path) -> None:
    """The other one may have begun its run when it is ended."""
    said, codes, text = refused(here, 2, cpt(stories), cpt("missing"))
    assert len([line for line in said if line.startswith("error: ")]) >= 1, text
    assert any("missing" in line for line in said), text
    assert codes[-1] != "0"


def test_what_is_done_is_said_once(here: Path, stories: Path) -> None:
    done = torchrun(PROGRAM, json.dumps([cpt(stories, "--lr", "1e-3", "--json")]), processes=2, cwd=here)
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(said) == 1 and said[0]["operation"] == "cpt" and said[0]["steps"] == 4
