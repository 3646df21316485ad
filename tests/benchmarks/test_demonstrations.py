"""The demonstrations: the rule of the verdict on made-up numbers, the arms as settings, one run from end to end."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import demonstrations as runner  # noqa: E402
from demonstration_arms import DEMONSTRATIONS, Claim  # noqa: E402
from demonstration_report import document  # noqa: E402

from surgeon.operations import operation  # noqa: E402

LOW, HIGH, BETWEEN = [1.0, 1.1, 1.2], [1.3, 1.4, 1.5], [1.15, 1.3, 1.6]


def found(below: list[float], above: list[float], margin: float = 0.0) -> str:
    values = {"a": {"domain": below}, "b": {"domain": above}}
    return runner.finding(Claim("domain", "a", "b", margin), values)


def test_a_claim_is_seen_only_where_the_ranges_lie_apart() -> None:
    assert found(LOW, HIGH) == "seen"
    assert found(HIGH, LOW) == "not seen"
    assert found(LOW, BETWEEN) == "null"  # the means are in the expected order
    assert found(BETWEEN, LOW) == "null"
    assert found(LOW, LOW) == "null"


def test_one_seed_has_no_range() -> None:
    assert found([1.0], [2.0]) == "null"
    assert found([1.0, 1.0, 1.0], HIGH) == "null"  # seeds that change nothing are one


def test_a_margin_is_how_much_worse_it_may_be() -> None:
    assert found([1.5, 1.6], [1.3, 1.4], 0.5) == "seen"
    assert found([1.5, 1.6], [1.3, 1.4], 0.05) == "not seen"
    assert found([1.5, 1.6], [1.3, 1.4], 0.25) == "null"


def test_differences_are_taken_seed_by_seed() -> None:
    values = {"a": {"domain": [1.0, 3.0]}, "b": {"domain": [1.5, 3.25]}}
    result = runner.judged(Claim("domain", "a", "b"), values)
    assert result == {"claim": "domain: a < b", "found": "null", "difference": [-0.5, -0.25]}


def test_a_loss_that_is_not_finite_gives_no_verdict() -> None:
    with pytest.raises(SystemExit, match="not finite"):
        found(LOW, [1.0, float("nan"), 2.0])


@pytest.mark.parametrize(
    ("findings", "expected"),
    [
        (["seen", "seen"], "seen"),
        (["seen", "null"], "null"),
        (["seen", "null", "not seen"], "not seen"),
        (["not seen"], "not seen"),
    ],
)
def test_the_direction_is_seen_where_every_claim_is(findings: list[str], expected: str) -> None:
    assert runner.verdict(findings) == expected


@pytest.mark.parametrize("name", sorted(DEMONSTRATIONS))
@pytest.mark.parametrize("scale", [runner.quickstart(), runner.of_material(Path("material"))], ids=lambda s: s.name)
def test_arms_are_settings_on_equal_tokens_and_claims_name_arms(name: str, scale: runner.Scale) -> None:
    chosen = DEMONSTRATIONS[name]
    scale.places["graded"] = "graded.jsonl"
    budgets = set()
    for stages in chosen.arms.values():
        filled = runner.stages_of(chosen, stages, scale)
        budgets.add(sum(stage["tokens"] for stage in filled if stage["do"] == "cpt"))
        for stage in filled:
            start = {"run" if stage["do"] == "average" else "model": "base", "out": "out", "seed": 0}
            operation(stage["do"]).settings_class()(**{k: v for k, v in stage.items() if k != "do"} | start)
    assert len(budgets) == 1
    measures = {*chosen.corpora, "forgetting", "mean", "beyond"}
    for claim in chosen.claims:
        assert {claim.below, claim.above} <= set(chosen.arms)
        assert claim.measure in measures


def test_one_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    small = replace(runner.quickstart(), tokens=1024, batch_tokens=256, eval_tokens=1000)
    result = runner.demonstrate("kl-reference", small, 1, tmp_path)
    assert result == json.loads(json.dumps(result)) | {"machine": result["machine"]}
    assert result["tokens"] == 1024
    assert list(result["arms"]) == list(DEMONSTRATIONS["kl-reference"].arms)
    plain = result["arms"]["plain"]
    assert plain["domain"][0] < result["base"]["domain"]
    assert plain["forgetting"] == [plain["general"][0] - result["base"]["general"]]
    assert [c["found"] for c in result["claims"]] == ["null", "null"]
    text = runner.printed(result)
    assert text.endswith("direction of the paper: null")
    assert text in document([result], "about")


def test_arms_that_are_the_same_in_two_demonstrations_are_trained_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    small = replace(runner.quickstart(), tokens=512, batch_tokens=256, eval_tokens=500)
    first, second = DEMONSTRATIONS["replay"], DEMONSTRATIONS["rewarm"]
    half, twice, claims = {"lr_times": 0.5}, {"lr_times": 2.0}, (Claim("domain", "a", "b"),)
    monkeypatch.setitem(DEMONSTRATIONS, "replay", replace(first, arms={"a": {}, "b": half}, claims=claims))
    monkeypatch.setitem(DEMONSTRATIONS, "rewarm", replace(second, arms={"a": twice, "b": {}}, claims=claims))
    known: runner.Known = {}
    runner.demonstrate("replay", small, 2, tmp_path, known)
    assert len(known) == 4
    again = runner.demonstrate("rewarm", small, 2, tmp_path, known)
    assert len(known) == 6
    alone = runner.demonstrate("rewarm", small, 2, tmp_path)
    assert again == alone | {"machine": again["machine"]}


def test_designed_targets_and_their_controls_are_five_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text that is served is never trained on, and neither control is plain training or the designer."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    chosen = DEMONSTRATIONS["value-targets"]
    small = replace(runner.quickstart(), tokens=1024, eval_tokens=1000)
    for stages in chosen.arms.values():
        (stage,) = runner.stages_of(chosen, stages, small)
        assert stage["data"] == [f"domain={small.places['domain']}"] and "replay" not in stage
    result = runner.demonstrate("value-targets", small, 1, tmp_path)
    assert len({json.dumps(found) for found in result["arms"].values()}) == 5
    assert "the same model" not in runner.printed(result)
    assert {c.above for c in chosen.claims} == set(chosen.arms) - {"designed"}


def test_the_document_has_a_column_for_each_model_and_says_what_was_not_run() -> None:
    values = {"a": {"domain": [1.0, 1.1]}, "b": {"domain": [1.3, 1.2]}}
    one = {"name": "rope", "source": "", "direction": "", "tokens": 1, "seeds": 2, "base": {"domain": 3.0}}
    one |= {"arms": values, "claims": [runner.judged(Claim("domain", "a", "b"), values)]}
    small, large = runner.quickstart().name, runner.of_material(Path("x")).name
    seen, unseen = one | {"scale": small, "verdict": "seen"}, one | {"scale": large, "verdict": "null"}
    lines = document([unseen, seen], "about").splitlines()  # in the order of the models, not of the results
    assert "| | expected | found, 260k | found, 8m |" in lines
    assert [line.endswith("| seen | null |") for line in lines if line.startswith("| rope |")] == [True]
    assert [line.endswith("| not run | not run |") for line in lines if line.startswith("| replay |")] == [True]
    commands = [line.strip() for line in lines if line.startswith("    python")]
    plain = "python benchmarks/demonstrations.py rope --seeds 2"
    assert commands == [plain, plain + " --material MATERIAL"]


def test_the_document_is_of_the_results_that_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(runner, "DOCS", tmp_path / "demonstrations.md")
    monkeypatch.setattr(sys, "argv", ["demonstrations.py", "--docs"])
    runner.main()
    kept = BENCHMARKS.parent / "docs" / "demonstrations.md"
    assert (tmp_path / "demonstrations.md").read_text(encoding="utf-8") == kept.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("given", "problem"),
    [(["replay", "nothing"], "no demonstration is called nothing"), ([], "give names"), (["rope", "--docs"], "alone")],
)
def test_what_is_no_demonstration_is_refused(
    given: list[str], problem: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["demonstrations.py", *given])
    with pytest.raises(SystemExit):
        runner.main()
    assert problem in capsys.readouterr().err


def test_arms_that_are_one_model_are_told() -> None:
    values = {"a": {"domain": [1.0, 2.0]}, "b": {"domain": [1.0, 2.0]}, "c": {"domain": [1.0, 2.5]}}
    claim = runner.judged(Claim("domain", "a", "b"), values)
    result = {"name": "x", "source": "", "direction": "", "scale": "", "tokens": 1, "seeds": 2, "verdict": "null"}
    text = runner.printed(result | {"base": {"domain": 3.0}, "arms": values, "claims": [claim]})
    assert text.count("the same model at every seed") == 1
    assert "the same model at every seed: a, b\n" in text


def test_graded_text_says_how_much_of_it_is_noise(tmp_path: Path) -> None:
    small = replace(runner.quickstart(), tokens=2048)
    lines = runner.graded(small, 0, tmp_path / "graded.jsonl").read_text().splitlines()
    pieces = [json.loads(line) for line in lines]
    assert all(1 - runner.NOISE <= p["quality"] <= 1 for p in pieces)
    domain = Path(small.places["domain"]).read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"][:800].split() for line in domain]
    held = pieces[0]["text"].split()  # the first piece of some document
    kept = max(
        sum(a == b for a, b in zip(words, held, strict=True)) / len(held) for words in texts if len(words) == len(held)
    )
    assert kept >= pieces[0]["quality"] - 1 / len(held)
    other = runner.graded(small, 1, tmp_path / "other.jsonl").read_text().splitlines()
    assert other != lines


def test_unequal_tokens_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = DEMONSTRATIONS["rewarm"]
    unequal = replace(chosen, arms={"a": {}, "b": {"share": 0.5}})
    monkeypatch.setitem(DEMONSTRATIONS, "rewarm", unequal)
    with pytest.raises(SystemExit, match="different numbers of tokens"):
        runner.demonstrate("rewarm", runner.quickstart(), 1, tmp_path)
