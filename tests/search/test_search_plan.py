"""A search on real models and texts: known optima are found, and what is reported is what the output does."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from search_models import expanded, moved, same_tensors, trained

from surgeon.checkpoint.lineage import read_lineage
from surgeon.merge.plan import plan_merge
from surgeon.merge.settings import MergeSettings
from surgeon.operations import described, perform
from surgeon.ops.execute import execute
from surgeon.ops.plan import from_json, to_json
from surgeon.replan import settings_again
from surgeon.search.plan import plan_merge_searched, searched
from surgeon.verify import verify


@pytest.fixture(scope="module")
def texts(stories: Path) -> dict[str, str]:
    folder = stories.parent
    return {name: f"{name}={folder}/{name}.valid.jsonl" for name in ("general", "domain", "instruct")}


def asked(base: Path, out: Path, add: list[Any], search: list[str], **settings: Any) -> MergeSettings:
    given = {"search_tokens": 1500, "search_grid": 3} | settings
    return MergeSettings(base=str(base), out=out, add=[str(a) for a in add], search=search, **given)


@contextmanager
def forwards() -> Iterator[list[str]]:
    """The names of the models that computed something, one a call of the whole model."""
    seen: list[str] = []

    def note(module: torch.nn.Module, *_: Any) -> None:
        if type(module).__name__.endswith("ForCausalLM"):
            seen.append(type(module).__name__)

    handle = torch.nn.modules.module.register_module_forward_hook(note)
    try:
        yield seen
    finally:
        handle.remove()


def test_the_optimum_lies_where_the_trained_model_is(stories: Path, tmp_path: Path, texts: dict[str, str]) -> None:
    """The base is the trained model moved away along r; the tuned one lies on the way back: at 1, or at 0.6."""
    base = moved(stories, tmp_path / "base", [(1, 1.0)])
    for weight in (1.0, 0.6):
        tuned = moved(stories, tmp_path / f"tuned{weight}", [(1, 1 - 1 / weight)])
        plan = plan_merge_searched(
            asked(base, tmp_path / "out", [tuned], [texts["general"]], any_base=True, search_grid=5)
        )
        (found,) = searched(plan)["search"]["weights"].values()
        assert abs(found - weight) < 0.06


def test_two_optima_at_once(stories: Path, tmp_path: Path, texts: dict[str, str]) -> None:
    base = moved(stories, tmp_path / "base", [(1, 1.0), (2, 1.0)])
    first = moved(stories, tmp_path / "first", [(1, 1 - 1 / 0.5), (2, 1.0)])
    second = moved(stories, tmp_path / "second", [(1, 1.0), (2, 1 - 1 / 0.8)])
    plan = plan_merge_searched(
        asked(base, tmp_path / "out", [first, second], [texts["general"]], any_base=True, search_grid=5)
    )
    found = searched(plan)["search"]["weights"]
    assert abs(found["first"] - 0.5) < 0.1 and abs(found["second"] - 0.8) < 0.1


@pytest.fixture(scope="module")
def family(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("family")
    deep = expanded(stories, root / "deep", [1])
    return {
        "root": root,
        "base": stories,
        "instruct": trained(stories, root / "instruct", 1),
        "domain": trained(deep, root / "domain", 2, size=0.01),
    }


@pytest.fixture(scope="module")
def done(family: dict[str, Path], texts: dict[str, str]) -> tuple[MergeSettings, dict[str, Any], Path]:
    """A search of two weights onto a deeper model, carried out: (settings, result, out)."""
    out = family["root"] / "out"
    settings = asked(
        family["base"], out, [family["instruct"], family["domain"]], [texts["general"], texts["instruct"]],
        search_range=(-0.25, 1.0),
    )  # fmt: skip
    return settings, perform("merge-task-vectors", settings), out


def test_what_is_reported_of_the_choice_is_what_the_output_does(
    done: tuple[MergeSettings, dict[str, Any], Path], family: dict[str, Path], texts: dict[str, str]
) -> None:
    """The same losses, to the last bit, from the files that were written, and of named points from their models."""
    from surgeon.measure.perplexity import evaluate

    settings, result, out = done
    found = result["search"]
    names = [str(out), str(family["base"]), str(family["instruct"]), str(family["domain"])]
    data = [texts["general"], texts["instruct"]]
    measured = evaluate(names, data, settings.search_tokens)["models"]
    losses = [[c["nats_per_token"] for c in model["corpora"]] for model in measured]
    assert losses[0] == list(found["losses"].values())
    assert [c["tokens"] for c in measured[0]["corpora"]] == [c["tokens"] for c in found["corpora"]]
    by_label = {p["label"]: p["losses"] for p in found["points"] if p["label"]}
    assert losses[2] == pytest.approx(by_label["instruct alone"], abs=1e-6)  # of the deeper shape: an identity more
    assert losses[3] == by_label["domain alone"]
    assert losses[1] == pytest.approx(by_label["reference"], abs=1e-6)


def test_evaluations_are_forward_runs(family: dict[str, Path], texts: dict[str, str], tmp_path: Path) -> None:
    """These texts fit into one batch each: a run of the model is a corpus at a point."""
    with forwards() as seen:
        plan = plan_merge_searched(
            asked(family["base"], tmp_path / "out", [family["instruct"]], [texts["general"], texts["domain"]])
        )
    found = searched(plan)["search"]
    assert found["evaluations"] == len(found["points"]) and 4 <= found["evaluations"] <= 6
    assert len(seen) == 2 * found["evaluations"]


def test_the_same_inputs_give_the_same_bytes_in_any_order_of_models(
    done: tuple[MergeSettings, dict[str, Any], Path], tmp_path: Path
) -> None:
    settings, _, out = done
    again = settings.model_copy(update={"out": tmp_path / "again", "add": list(reversed(settings.add))})
    perform("merge-task-vectors", again)
    for name in ("model.safetensors", "config.json"):
        assert (out / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    one, other = read_lineage(out), read_lineage(tmp_path / "again")
    assert one is not None and other is not None and one.merge == other.merge and one.plan == other.plan


def test_the_lineage_holds_the_weights_and_the_search_and_is_planned_again_without_one(
    done: tuple[MergeSettings, dict[str, Any], Path], tmp_path: Path
) -> None:
    _, result, out = done
    lineage = read_lineage(out)
    assert lineage is not None and lineage.merge is not None
    weights = result["search"]["weights"]
    named = {parent.digest: parent.name for parent in lineage.parents}
    assert {named[a["digest"]]: a["weight"] for a in lineage.settings["add"]} == weights
    assert not any("search" in key or key == "objective" for key in lineage.settings)
    kept = lineage.merge["search"]
    assert kept["evaluations"] == len(kept["points"]) and kept["points"][kept["choice"]]["weights"] == [
        weights[named[v["digest"]]] for v in kept["vectors"]
    ]
    assert [c["name"] for c in kept["corpora"]] == ["general", "instruct"]
    assert all(c["digest"].startswith("sha256:") and c["tokens"] >= 1500 for c in kept["corpora"])
    assert str(tmp_path.parent) not in json.dumps(lineage.merge)  # no paths
    parents = {p.role: Path(os.path.normpath(out / p.path)) for p in lineage.parents}
    with forwards() as seen:
        again = MergeSettings.model_validate(settings_again(lineage, parents, tmp_path / "again"))
        execute(plan_merge(again), tmp_path / "again")
        assert verify(out, function=True)["holds"]
    assert not seen and same_tensors(out, tmp_path / "again")


def test_a_dry_run_searches_too_and_says_the_same(
    done: tuple[MergeSettings, dict[str, Any], Path], tmp_path: Path
) -> None:
    settings, result, _ = done
    description = described("merge-task-vectors", settings.model_copy(update={"out": tmp_path / "none"}))
    assert description["search"] == result["search"] and not (tmp_path / "none").exists()
    assert description["plan_digest"] == result["plan_digest"]


def test_a_searched_plan_survives_json(family: dict[str, Path], texts: dict[str, str], tmp_path: Path) -> None:
    plan = plan_merge_searched(
        asked(family["base"], tmp_path / "out", [family["instruct"]], [texts["general"]], search_rounds=0)
    )
    assert from_json(json.loads(json.dumps(to_json(plan)))).digest == plan.digest


def test_a_weight_that_is_given_stays_and_the_other_is_searched(
    family: dict[str, Path], texts: dict[str, str], tmp_path: Path
) -> None:
    add = [family["instruct"], f"{family['domain']}=0.5"]
    plan = plan_merge_searched(asked(family["base"], tmp_path / "out", add, [texts["general"]]))
    found = searched(plan)["search"]
    assert found["fixed"] == {"domain": 0.5} and list(found["weights"]) == ["instruct"]
    weights = {entry["weight"] for entry in plan.settings["add"]}
    assert weights == {0.5, found["weights"]["instruct"]}


def test_a_residual_is_searched_onto_the_model_that_counts_in_full(
    family: dict[str, Path], texts: dict[str, str], tmp_path: Path
) -> None:
    """At weight 0 the output is that model, so its loss is among the points."""
    from surgeon.measure.perplexity import evaluate

    how = {"method": "residual", "onto": str(family["domain"]), "search_rounds": 0}
    plan = plan_merge_searched(
        asked(family["base"], tmp_path / "out", [family["instruct"]], [texts["general"]], **how)
    )
    reference = next(p for p in searched(plan)["search"]["points"] if p["label"] == "reference")
    (alone,) = evaluate([str(family["domain"])], [texts["general"]], 1500)["models"]
    assert reference["losses"] == [alone["corpora"][0]["nats_per_token"]]


@pytest.mark.parametrize("objective", ["min-max", "mean", "general", "domain"])
def test_every_objective_is_met_by_the_choice(
    family: dict[str, Path], texts: dict[str, str], tmp_path: Path, objective: str
) -> None:
    plan = plan_merge_searched(
        asked(
            family["base"], tmp_path / "out", [family["instruct"]], [texts["general"], texts["domain"]],
            objective=objective, search_tokens=600,
        )
    )  # fmt: skip
    found = searched(plan)["search"]
    points = found["points"]
    least = [min(p["losses"][c] for p in points) for c in range(2)]

    def value(point: dict[str, Any]) -> float:
        regrets = [loss - best for loss, best in zip(point["losses"], least, strict=True)]
        assert regrets == point["regrets"]
        of = {"min-max": max(regrets), "mean": sum(regrets) / 2, "general": regrets[0], "domain": regrets[1]}
        return of[objective]

    inside = [p for p in points if all(0 <= w <= 1.25 for w in p["weights"])]
    assert value(points[found["choice"]]) == min(map(value, inside))
    assert "regret" in found["formula"] and found["objective"] == objective


def test_real_instruct_and_base_texts_meet_in_the_middle(material: Path, tmp_path: Path) -> None:
    """The largest regret of the choice is not above that of the base or of the instruct model."""
    texts = material / "corpora"
    corpora = [f"instruct={texts}/instruct.valid.jsonl", f"general={texts}/general_en.valid.jsonl"]
    models = material / "models"
    plan = plan_merge_searched(
        asked(
            models / "base", tmp_path / "out", [models / "base-instruct"], corpora, search_tokens=1000, search_grid=5
        )
    )
    found = searched(plan)["search"]
    chosen = found["points"][found["choice"]]
    named = {p["label"]: p for p in found["points"] if p["label"]}
    for label in ("reference", "base-instruct alone"):
        assert max(chosen["regrets"]) <= max(named[label]["regrets"])
    assert 0 < chosen["weights"][0] < 1 and chosen["front"]
    assert max(chosen["regrets"]) < 0.5 * max(named["base-instruct alone"]["regrets"])
