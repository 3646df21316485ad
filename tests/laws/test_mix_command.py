"""surgeon mix: a fit that is a file, and answers that say where they go beyond the runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from law_runs import answer, grid, refused, surgeon, write_csv


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fit")
    runs = write_csv(folder / "runs.csv", grid(), start=2.4)
    words = ("mix", "fit", str(runs), "--law", "dcpt", "--option", "starts=2", "--out", str(folder / "law.json"))
    done = surgeon(*words, "--json")
    assert done.code == 0, done.err
    return folder / "law.json"


def test_a_fit_is_a_file_that_is_never_replaced_unasked(fitted: Path, tmp_path: Path) -> None:
    runs, before = fitted.parent / "runs.csv", fitted.read_bytes()
    words = ("mix", "fit", str(runs), "--law", "dcpt", "--option", "starts=2")
    refused(surgeon(*words, "--out", str(fitted)), 1, "exists already", "--force")
    table = runs.read_bytes()
    refused(surgeon(*words, "--out", str(runs), "--force"), 1, "is an input, which is never changed")
    refused(surgeon(*words, "--out", str(tmp_path / "absent" / "law.json")), 1, "folder is not there")
    done = surgeon(*words, "--out", str(fitted), "--force")
    assert done.code == 0 and "135 runs" in done.out and "R^2 1.000000" in done.out and "largest error" in done.out
    assert fitted.read_bytes() == before and runs.read_bytes() == table
    assert sorted(p.name for p in fitted.parent.iterdir()) == ["law.json", "runs.csv"]
    assert surgeon(*words).code == 0  # without --out nothing is written
    assert sorted(p.name for p in fitted.parent.iterdir()) == ["law.json", "runs.csv"]


def test_a_dry_run_fits_and_writes_nothing(fitted: Path, tmp_path: Path) -> None:
    words = ("mix", "fit", str(fitted.parent / "runs.csv"), "--law", "dcpt", "--option", "starts=2", "--dry-run")
    done = surgeon(*words, "--out", str(tmp_path / "law.json"))
    assert done.code == 0 and "135 runs" in done.out and "would be written to" in done.out
    assert list(tmp_path.iterdir()) == []
    refused(surgeon(*words, "--out", str(fitted)), 1, "exists already", "--force")


@pytest.mark.parametrize("gone", ["curve", "constant"])
def test_a_fit_that_lacks_a_constant_is_refused(fitted: Path, tmp_path: Path, gone: str) -> None:
    held = json.loads(fitted.read_text())
    name = "general" if gone == "curve" else sorted(held["constants"]["general"])[0]
    del (held["constants"] if gone == "curve" else held["constants"]["general"])[name]
    path = tmp_path / "law.json"
    path.write_text(json.dumps(held))
    at = ("--parameters", "1.8B", "--tokens", "10B")
    for words in (("predict", str(path), *at, "--share", "0.5"), ("optimum", str(path), *at, "--eps", "1")):
        refused(surgeon("mix", *words), 1, f"the fit has no {name!r}", "fit the law anew")


def test_a_prediction_says_what_lies_outside_of_the_runs(fitted: Path) -> None:
    at = ("predict", str(fitted), "--tokens", "10B")
    assert answer(*at, "--parameters", "1.8B", "--share", "90%")["outside"] == []
    far = answer(*at, "--parameters", "8B", "--share", "0.5")
    assert far["outside"] == ["parameters 8,000,000,000: the runs have 500,000,000 to 4,000,000,000"]
    shown = surgeon("mix", *at, "--parameters", "8B", "--share", "0.5")
    assert "outside" in shown.out and "8,000,000,000: the runs have" in shown.out


def test_the_optimum_keeps_the_bound_and_no_larger_share_does(fitted: Path) -> None:
    at = ("--parameters", "1.8B", "--tokens", "10B")
    found = answer("optimum", str(fitted), *at, "--max-general-rise", "3%", "--general-start", "2.0")
    assert found["bound"] == 2.0 * 1.03 and found["general"] == pytest.approx(2.06, abs=1e-9)
    share = found["share"]
    assert isinstance(share, float) and 0 < share < 1
    more = answer("predict", str(fitted), *at, "--share", str(share + 1e-3))
    assert isinstance(more["general"], float) and more["general"] > 2.06
    same = answer("optimum", str(fitted), *at, "--eps", "0.06", "--general-start", "2.0")
    assert same["share"] == pytest.approx(share, abs=1e-9)
    # the runs of the table start at 2.4: any share is within 3 % of it; and none is within 3 % of 1.2
    assert answer("optimum", str(fitted), *at, "--max-general-rise", "0.03")["share"] == 1.0
    none = surgeon("mix", "optimum", str(fitted), *at, "--eps", "0.01", "--general-start", "1.2")
    assert none.code == 3 and none.out.startswith("no share of the domain keeps the general loss within the bound")
    texts = answer("optimum", str(fitted), "--parameters", "1.8B", "--domain-tokens", "2B")
    assert isinstance(texts["share"], float) and texts["tokens"] == round(2e9 / texts["share"])


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("optimum", "FIT", "--parameters", "1.8B", "--tokens", "10B"), 2, "there is no bound"),
        (("optimum", "FIT", "--parameters", "1.8B", "--eps", "0.1"), 2, "--tokens or --domain-tokens"),
        (("optimum", "FIT", "--parameters", "9B", "--tokens", "1B", "--eps", "1"), 2, "not known for 9,000,000,000"),
        (("optimum", "FIT", "--parameters", "1", "--tokens", "1", "--eps", "1", "--max-general-rise", "1"), 2, "two "),
        (("optimum", "FIT", "--parameters", "1.8B", "--tokens", "10B", "--eps", "nan"), 2, "--eps is nan"),
        (("predict", "FIT", "--parameters", "many", "--tokens", "10B", "--share", "1"), 2, "'many' is not a count"),
        (("predict", "FIT", "--parameters", "0", "--tokens", "10B", "--share", "1"), 2, "above 0"),
        (("predict", "FIT", "--parameters", "1B", "--tokens", "10B", "--share", "1.5"), 2, "from 0 to 1"),
        (("predict", "absent.json", "--parameters", "1B", "--tokens", "1B", "--share", "1"), 1, "no such file"),
        (("predict", "RUNS", "--parameters", "1B", "--tokens", "1B", "--share", "1"), 1, "not valid JSON"),
        (("fit", "RUNS", "--law", "dctp"), 2, "did you mean 'dcpt'"),
        (("fit", "RUNS", "--law", "dcpt", "--option", "start=3"), 2, "did you mean 'starts'"),
        (("fit", "RUNS", "--law", "dcpt", "--option", "starts"), 2, "KEY=VALUE"),
        (("fit", "RUNS", "--law", "cmr"), 1, "3 model sizes"),
        (("optimise",), 2, "did you mean 'optimum'"),
    ],
)  # fmt: skip
def test_refusals(fitted: Path, words: tuple[str, ...], code: int, told: str) -> None:
    places = {"FIT": str(fitted), "RUNS": str(fitted.parent / "runs.csv")}
    refused(surgeon("mix", *(places.get(w, w) for w in words)), code, told)
