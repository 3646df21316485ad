"""What a run refuses by its words or for its places, --dry-run refuses too, and before the weights are read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_meta_alignment import settings

from surgeon.errors import SurgeonError
from surgeon.train import job
from surgeon.train.anneal import AnnealSettings, anneal
from surgeon.train.run import describe_cpt, run_cpt
from surgeon.train.settings import CptSettings

WAYS = (run_cpt, describe_cpt)
STILL = "kl_reference:learn_replay=false"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"meta": ["alignment"]}, "no general text"),
        ({"objective": "kl_reference"}, "there is none"),
        ({"objective": "designed_targets"}, "needs feedback"),
        ({"objective": "kl_reference", "replay": ["r={}"], "replay_ratio": 0.0}, "there is none"),
        (
            {"meta": ["alignment"], "replay": ["r={}"], "mixture": ["0.5:texts=1,r=1", "1:texts=1,r=0"]},
            "last stage of the run reads no replay",
        ),
        (
            {"meta": ["alignment:general={}"], "replay": ["r={}"], "mixture": ["0.5:texts=1,r=0", "1:texts=0,r=1"]},
            "last stage of the run reads no new data",
        ),
        ({"meta": ["alignment"], "objective": STILL, "replay": ["r={}"]}, "kl_reference with these options"),
        (
            {"meta": ["alignment"], "objective": f"{STILL},weight=0", "replay": ["r={}"], "teacher": "{}"},
            "kl_reference with these options",
        ),
    ],
)
@pytest.mark.parametrize("way", WAYS)
def test_by_its_words(
    changes: dict[str, Any], message: str, way: Callable[[CptSettings], Any], stories: Path, corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(job, "load_model", lambda *_, **__: pytest.fail("the weights were read"))
    given = {k: [x.format(corpus) for x in v] if isinstance(v, list) else v for k, v in changes.items()}
    given |= {"teacher": str(stories)} if "teacher" in given else {}
    with pytest.raises(SurgeonError, match=message):
        way(settings(stories, corpus, **given))
    assert not corpus.with_name("out.run").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"meta": ["alignment:general={}"]},  # a text that is learned
        {"meta": ["alignment"], "teacher": True},  # which pulls from the first step on
    ],
)
def test_a_probe_of_text_that_has_a_gradient_runs(
    changes: dict[str, Any], tiny: Callable[..., Path], corpus: Path, tmp_path: Path
) -> None:
    model = tiny("llama")
    given = changes | {"meta": [word.format(f"g={corpus}") for word in changes["meta"]]}
    if "teacher" in given:
        run_cpt(settings(model, corpus, out=str(tmp_path / "teacher")))
        given["teacher"] = str(tmp_path / "teacher")
    found = run_cpt(settings(model, corpus, objective=STILL, replay=[f"r={corpus}"], replay_ratio=0.5, **given))
    assert found.steps == 6


@pytest.mark.parametrize("way", [lambda given: run_cpt(given, force=True), describe_cpt])
def test_by_its_places(way: Callable[[CptSettings], Any], tiny: Callable[..., Path], corpus: Path) -> None:
    model = tiny("llama")
    for out in (model, model / "new"):
        with pytest.raises(SurgeonError, match="input"):
            way(settings(model, corpus, out=str(out)))
    texts = corpus.parent / "texts"
    texts.mkdir()
    moved = corpus.rename(texts / corpus.name)
    with pytest.raises(SurgeonError, match="holds a corpus"):
        way(settings(model, moved, out=str(texts)))
    other = corpus.with_name("other.jsonl")
    other.write_text(moved.read_text())
    with pytest.raises(SurgeonError, match="holds a corpus"):  # one that is only evaluated on is lost as well
        way(settings(model, other, out=str(texts), eval=[f"held={moved}"]))
    assert moved.is_file()


def test_a_run_whose_settings_are_damaged_is_not_told_of_a_model(tiny: Callable[..., Path], corpus: Path) -> None:
    given = settings(tiny("llama"), corpus, schedule="constant", keep_state=True)
    out = Path(run_cpt(given).out)
    written = out.with_name("out.run") / "settings.json"
    written.write_text("{")
    shutil.move(out, out.with_name("moved"))
    with pytest.raises(SurgeonError, match="not valid JSON") as refused:
        run_cpt(given.model_copy(update={"resume": True}))
    assert "--force starts anew" in refused.value.hint
    with pytest.raises(SurgeonError, match="not valid JSON") as refused:
        anneal(AnnealSettings(run=str(out), out=str(out.with_name("new")), data=[str(corpus)], tokens=64))
    assert "train a checkpoint" in refused.value.hint
    written.unlink()
    with pytest.raises(SurgeonError, match=r"there is no settings\.json") as refused:
        run_cpt(given.model_copy(update={"resume": True}))
    assert "--force starts anew" in refused.value.hint
