"""Which init is the default, what it needs, and what it gives from the command to the written model."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from static_material import Said

from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import UsageError
from surgeon.measure.perplexity import evaluate
from surgeon.ops.execute import execute
from surgeon.verify import verify
from surgeon.vocab.body import Body
from surgeon.vocab.inits.distill_hull import distill_hull
from surgeon.vocab.inits.subword_mean import subword_mean
from surgeon.vocab.inits.weighted_pieces import weighted_pieces
from surgeon.vocab.plan import plan_extend_vocab
from surgeon.vocab.settings import BUDGET, ExtendVocabSettings, Use, budget, check_settings, chosen_inits
from surgeon.vocab.tokens import NewTokens


def settings(**options: Any) -> ExtendVocabSettings:
    return ExtendVocabSettings(**{"model": "model", "out": Path("out"), "corpus": ["text.jsonl"], "add": 5} | options)


def test_which_init_is_the_default() -> None:
    fitted, pieces = Use("distill_hull", {}), Use("weighted_pieces", {})
    assert chosen_inits(settings(probe=["old.jsonl"])) == (fitted, fitted)
    assert chosen_inits(settings()) == (pieces, pieces)
    assert chosen_inits(settings(add=None, tokens=Path("t"), corpus=None, probe=["old.jsonl"])) == (pieces, pieces)
    assert budget(settings(probe=["old.jsonl"])) == BUDGET
    assert budget(settings(probe=["old.jsonl"], init="distill_hull")) == BUDGET
    assert budget(settings(probe=["old.jsonl"], init="distill_hull", old_loss_budget=0.1)) == 0.1
    assert budget(settings(probe=["old.jsonl"], init="mean")) is None
    assert budget(settings()) is None


def test_a_probe_and_a_text_are_needed(stories: Path) -> None:
    with pytest.raises(UsageError, match="holds old text to a budget"):
        check_settings(settings(init="distill_hull"))
    with pytest.raises(UsageError, match="reads the target text"):
        check_settings(settings(init="distill_hull", add=None, tokens=Path("t"), corpus=None, probe=["old.jsonl"]))
    new = NewTokens(("x",), (512,), ((5, 6),), (5, 6, 7), lambda: [[512] * 300])
    with pytest.raises(UsageError, match="holds old text to a budget"):
        distill_hull(new, Body(stories, "cpu"), True, 0, Said(), None, None)


def test_weighted_pieces_are_the_subword_means_they_say() -> None:
    new = NewTokens(("x",), (30,), ((5, 6, 7),), tuple(range(3, 30)))
    said = {
        ("input", False): {"lean": "last", "decay": 0.25},
        ("output", False): {"lean": "first", "decay": 0.75, "mean_share": 0.1},
        ("input", True): {"lean": "last", "decay": 0.75, "mean_share": 0.1},
    }
    old = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    for (role, tied), options in said.items():
        assert torch.equal(weighted_pieces(new, role, tied).rows(old), subword_mean(new, **options).rows(old))  # type: ignore[arg-type]


@pytest.mark.material
@pytest.mark.parametrize("untie", [False, True])
def test_the_default_from_the_command_to_the_written_model(material: Path, tmp_path: Path, untie: bool) -> None:
    """On medical text that nothing was learned from, and old text that is not the probe."""
    corpora = material / "corpora"
    model, probe = str(material / "models" / "stories260K"), tmp_path / "probe.jsonl"
    text = tmp_path / "text.jsonl"
    for name, to, lines in (("stories_en", probe, 60), ("medical_en", text, 60)):
        with (corpora / f"{name}.valid.jsonl").open(encoding="utf-8") as source:
            to.write_text("".join(islice(source, lines)), encoding="utf-8")
    bits = {}
    for name, words in {
        "pieces": {"init": "weighted_pieces", "old_loss_budget": 0.02},
        "default": {},
    }.items():
        out = tmp_path / name
        plan = plan_extend_vocab(
            ExtendVocabSettings(
                model=model, out=out, corpus=[str(text)], add=100, probe=[str(probe)],
                untie=untie, device="cpu", **words,
            )
        )  # fmt: skip
        execute(plan, out, threads=1)
        scores = evaluate([str(out)], [str(corpora / "medical_en.train.jsonl")], tokens=4_000, device="cpu")
        bits[name] = scores["models"][0]["corpora"][0]["bits_per_byte"]
    assert bits["default"] < bits["pieces"] - 0.2
    lineage = Checkpoint.open(out).lineage
    assert lineage is not None and lineage.rows is not None and lineage.rows.calibration is not None
    assert lineage.rows.method == lineage.rows.method_output == "distill_hull"
    found = lineage.rows.calibration
    assert found["loss_increase"] <= found["budget"] == 0.02 and found["argmax_kept"] == 1.0
    assert found["loss_increase"] <= found["unigram_bound"] <= found["worst_bound"]
    result = verify(out, function=True, data=[str(probe)], parent=Path(model))
    assert result["holds"], [c for c in result["checks"] if not c["holds"]]
    checks = {c["check"] for c in result["checks"]}
    head = "lm_head.weight" if untie else "model.embed_tokens.weight"
    assert {f"rows of {head} are what the weights give", "no new token wins over the best old one"} <= checks
