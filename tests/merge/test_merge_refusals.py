"""Models that do not meet are refused with a cure, before anything is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
import torch
from merge_models import expanded, merged, tensors, trained
from safetensors.torch import save_file

from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.sidecars import TOKENIZER_FILES
from surgeon.errors import SurgeonError, UsageError
from surgeon.merge.plan import MergeSettings, plan_merge
from surgeon.merge.weights import parse_weight


def refusal(base: Path, *add: str, **settings: object) -> SurgeonError:
    with pytest.raises(SurgeonError) as found:
        plan_merge(MergeSettings(base=str(base), out=Path("never"), add=list(add), **settings))
    return found.value


def test_words_of_weights() -> None:
    def words(text: str) -> tuple[str, object]:
        name, weight = parse_weight(text)
        return name, weight.plain()

    assert words("a/b=0.5") == ("a/b", 0.5)
    assert words("a/b=-1e-1") == ("a/b", -0.1)
    assert words("runs/lr=3e-4/model") == ("runs/lr=3e-4/model", 1.0)
    assert words("plain") == ("plain", 1.0)
    assert words("a=0.5,mlp:0,1,attention.q:2") == ("a", "0.5,attention.q:2.0,mlp:0.0,1.0")
    for wrong in ("a=nan", "a=x", "a=", "a=0.5,mlp:", "a=mlp:1", "a=1,mlp:1,mlp:2", "a=0.5x"):
        with pytest.raises(UsageError, match="does not parse"):
            parse_weight(wrong)


def test_a_deeper_model_without_lineage(stories: Path, tmp_path: Path) -> None:
    deep = expanded(stories, tmp_path / "deep", [1])
    (deep / "surgeon.json").unlink()
    error = refusal(stories, str(deep))
    assert "model.layers.5" in error.problem and "surgeon.json" in error.hint


def test_more_rows_without_lineage_and_without_tokens(stories: Path, tmp_path: Path) -> None:
    wide = trained(stories, tmp_path / "wide", 1, lineage=False)
    for name in TOKENIZER_FILES:
        (wide / name).unlink(missing_ok=True)
    held = tensors(wide)
    held["model.embed_tokens.weight"] = torch.zeros(520, 64)
    save_file(held, wide / "model.safetensors", metadata={"format": "pt"})
    config = wide / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"vocab_size": 520}))
    error = refusal(stories, str(wide))
    assert "520 rows" in error.problem and "has no tokenizer" in error.problem


def test_another_base(stories: Path, tmp_path: Path) -> None:
    other = trained(stories, tmp_path / "other", 1, lineage=False)
    domain = trained(other, tmp_path / "domain", 2)
    error = refusal(stories, str(domain))
    assert "does not lead to" in error.problem and "other" in error.hint


def test_a_base_that_has_changed_since(stories: Path, tmp_path: Path) -> None:
    base = trained(stories, tmp_path / "base", 1, lineage=False)
    domain = trained(base, tmp_path / "domain", 2)
    config = base / "config.json"
    config.write_text(config.read_text() + "\n")
    assert "another digest" in refusal(base, str(domain)).problem


def test_a_base_that_is_itself_operated_on(stories: Path, tmp_path: Path) -> None:
    deep = expanded(stories, tmp_path / "deep", [1])
    instruct = trained(stories, tmp_path / "instruct", 1)
    assert "does not lead to deep" in refusal(deep, str(instruct)).problem


def test_different_surgery(stories: Path, tmp_path: Path) -> None:
    one, other = expanded(stories, tmp_path / "one", [1]), expanded(stories, tmp_path / "other", [2])
    assert "different ways" in refusal(stories, str(one), str(other)).problem


def test_the_same_surgery_done_twice_meets(stories: Path, tmp_path: Path) -> None:
    first = trained(expanded(stories, tmp_path / "one", [1]), tmp_path / "first", 1)
    second = trained(expanded(stories, tmp_path / "other", [1]), tmp_path / "second", 2)
    assert (
        Checkpoint.open(merged(tmp_path / "out", stories, {first: 0.5, second: 0.5})).config["num_hidden_layers"] == 6
    )


def test_onto_a_model_that_is_not_deep_enough(stories: Path, tmp_path: Path) -> None:
    deep = expanded(stories, tmp_path / "deep", [1])
    error = refusal(stories, str(deep), onto=str(stories))
    assert isinstance(error, UsageError) and "no place" in error.problem


def test_tied_and_untied(tmp_path: Path) -> None:
    base = tiny.build("llama", tmp_path / "base")
    tied = tiny.build("llama", tmp_path / "tied", tie_word_embeddings=True)
    assert "ties its head" in refusal(base, str(tied)).problem


def test_another_architecture(stories: Path, tmp_path: Path) -> None:
    other = tiny.build("qwen3", tmp_path / "other")
    assert "qwen3" in refusal(stories, str(other)).problem


def test_the_same_model_twice(stories: Path, tmp_path: Path) -> None:
    instruct = trained(stories, tmp_path / "instruct", 1)
    assert "the same model" in refusal(stories, f"{instruct}=0.5", f"{instruct}=0.3").problem


def test_a_missing_table_of_rows(tmp_path: Path) -> None:
    from merge_models import extended

    base = tiny.build("llama", tmp_path / "base")
    domain = trained(extended(base, tmp_path / "wide", 5, 0), tmp_path / "domain", 1)
    (domain / "surgeon" / "rows-0.safetensors").unlink()
    assert "rows-0.safetensors" in refusal(base, str(domain)).problem


def test_wrong_words(stories: Path, tmp_path: Path) -> None:
    instruct = str(trained(stories, tmp_path / "instruct", 1))
    assert "task_arithmetic" in refusal(stories, instruct, method="task_arithmetik").hint
    assert "bfloat16" in refusal(stories, instruct, dtype="bfloat").hint
    assert "--scale" in refusal(stories, instruct, option={"scale": 2}).hint
    assert isinstance(refusal(stories, instruct, option={"density": 2}), UsageError)


def test_two_chat_templates_of_equal_weight(stories: Path, tmp_path: Path) -> None:
    one = trained(stories, tmp_path / "one", 1, chat_template__jinja="one")
    other = trained(stories, tmp_path / "other", 2, chat_template__jinja="other")
    assert "different chat templates" in refusal(stories, str(one), str(other)).problem
    out = merged(tmp_path / "out", stories, {one: 0.4, other: 0.6})
    assert (out / "chat_template.jinja").read_text() == "other"
    lineage = Checkpoint.open(out).lineage
    assert lineage is not None and lineage.merge is not None
    assert lineage.merge["files_from"] == {"chat_template.jinja": "other"}
    chosen = merged(tmp_path / "chosen", stories, {one: 0.4, other: 0.6}, chat="one")
    assert (chosen / "chat_template.jinja").read_text() == "one"


def test_options_are_told_as_a_person_gives_them(stories: Path, tmp_path: Path) -> None:
    instruct = str(trained(stories, tmp_path / "instruct", 1))
    assert refusal(stories, instruct, option={"densty": 2}).hint == "it takes no options"
    assert refusal(stories, instruct, method="breadcrumbs", option={"x": 2}).hint == "known: density, gamma"
    error = refusal(stories, instruct, method="sce", scale=2.0)
    assert (error.problem, error.where) == ("sce takes no scale", "--scale 2")
