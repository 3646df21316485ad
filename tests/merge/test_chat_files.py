"""Chat template, generation config and end-of-sequence ids follow the model that changed them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from merge_models import merged, trained
from test_own_tokens import extended

from surgeon.checkpoint.lineage import read_lineage
from surgeon.errors import SurgeonError


def changed(folder: Path, name: str, **values: Any) -> None:
    path = folder / name
    held = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(held | values))


@pytest.fixture
def trio(stories: Path, tmp_path: Path) -> tuple[Path, Path, Path]:
    """(base, instruct, domain): the base has a generation config and a template of its own, as Qwen's bases do, the
    domain model has them from the base, and the instruct model has others."""
    base = trained(stories, tmp_path / "base", 9, lineage=False, chat_template__jinja="plain {{ messages }}")
    changed(base, "generation_config.json", eos_token_id=2, max_new_tokens=64)
    instruct = trained(base, tmp_path / "instruct", 1, lineage=False)
    (instruct / "chat_template.jinja").write_text("chat {{ messages }}</s>")
    changed(instruct, "generation_config.json", eos_token_id=[2, 0], temperature=0.7)
    changed(instruct, "config.json", eos_token_id=0, pad_token_id=0)
    changed(instruct, "tokenizer_config.json", eos_token="<unk>")
    return base, instruct, trained(base, tmp_path / "domain", 2)


@pytest.mark.parametrize("onto", [None, "domain", "base"])
def test_they_follow_the_instruct_model(trio: tuple[Path, Path, Path], tmp_path: Path, onto: str | None) -> None:
    base, instruct, domain = trio
    place = {"domain": str(domain), "base": str(base), None: None}[onto]
    out = merged(tmp_path / "out", base, {instruct: 0.4, domain: 1.0}, onto=place)
    assert (out / "chat_template.jinja").read_text() == "chat {{ messages }}</s>"
    assert (out / "generation_config.json").read_bytes() == (instruct / "generation_config.json").read_bytes()
    config = json.loads((out / "config.json").read_text())
    assert config["eos_token_id"] == 0 and config["pad_token_id"] == 0
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert AutoTokenizer.from_pretrained(out).eos_token == "<unk>"
    assert AutoModelForCausalLM.from_pretrained(out).generation_config.eos_token_id == [2, 0]
    lineage = read_lineage(out)
    assert lineage is not None and lineage.merge is not None
    assert set(lineage.merge["files_from"].values()) == {"instruct"}


@pytest.mark.parametrize("weight", [-0.4, "0,0", "0,-1,mlp:-2"])
def test_a_model_that_is_only_taken_away_is_not_followed(
    trio: tuple[Path, Path, Path], tmp_path: Path, weight: Any
) -> None:
    base, instruct, domain = trio
    out = merged(tmp_path / "out", base, {instruct: weight, domain: 0.5})
    assert (out / "chat_template.jinja").read_text() == "plain {{ messages }}"
    for name in ("generation_config.json", "config.json", "tokenizer_config.json"):
        assert (out / name).read_bytes() == (base / name).read_bytes()


def test_a_target_that_changed_them_keeps_its_own_unless_told(trio: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, instruct, domain = trio
    (domain / "chat_template.jinja").write_text("domain {{ messages }}")
    out = merged(tmp_path / "out", base, {instruct: 0.4, domain: 1.0}, onto=str(domain))
    assert (out / "chat_template.jinja").read_text() == "domain {{ messages }}"
    told = merged(tmp_path / "told", base, {instruct: 0.4, domain: 1.0}, onto=str(domain), chat="instruct")
    assert (told / "chat_template.jinja").read_text() == "chat {{ messages }}</s>"


def test_a_model_of_weight_zero_says_nothing(trio: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, instruct, domain = trio
    out = merged(tmp_path / "out", base, {instruct: 0.0, domain: 1.0})
    assert (out / "chat_template.jinja").read_text() == "plain {{ messages }}"
    assert json.loads((out / "config.json").read_text())["eos_token_id"] == 2


def test_two_that_contradict_each_other(trio: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, instruct, domain = trio
    other = trained(base, tmp_path / "other", 3, lineage=False)
    changed(other, "generation_config.json", eos_token_id=1)
    with pytest.raises(SurgeonError, match="different generation configs") as found:
        merged(tmp_path / "out", base, {instruct: 0.5, other: 0.5, domain: 0.1})
    assert "--chat" in found.value.hint
    chosen = merged(tmp_path / "chosen", base, {instruct: 0.5, other: 0.5, domain: 0.1}, chat="other")
    assert json.loads((chosen / "generation_config.json").read_text())["eos_token_id"] == 1


def test_a_template_inside_the_tokenizer_config(trio: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, instruct, domain = trio
    for model, text in ((base, "plain"), (domain, "plain"), (instruct, "chat")):
        (model / "chat_template.jinja").unlink()
        changed(model, "tokenizer_config.json", chat_template=text)
    # base and domain have changed together, and their lineage would not meet: the test is of files alone
    (domain / "surgeon.json").unlink()
    out = merged(tmp_path / "out", base, {instruct: 0.4, domain: 1.0})
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(out).chat_template == "chat"
    assert "chat_template" not in json.loads((out / "tokenizer_config.json").read_text())


@pytest.mark.parametrize("inside", [False, True])
def test_templates_by_name_come_from_one_model(trio: tuple[Path, Path, Path], tmp_path: Path, inside: bool) -> None:
    from transformers import AutoTokenizer

    base, instruct, domain = trio
    for model in (base, domain):  # such as the domain model has from the base
        (model / "additional_chat_templates").mkdir()
        (model / "additional_chat_templates" / "rag.jinja").write_text("rag of the base")
    texts = {"default": "chat {{ messages }}", "tool_use": "tools {{ messages }}"}
    if inside:
        (instruct / "chat_template.jinja").unlink()
        listed = [{"name": name, "template": text} for name, text in texts.items()]
        changed(instruct, "tokenizer_config.json", chat_template=listed)
    else:
        (instruct / "chat_template.jinja").write_text(texts["default"])
        (instruct / "additional_chat_templates").mkdir()
        (instruct / "additional_chat_templates" / "tool_use.jinja").write_text(texts["tool_use"])
    assert AutoTokenizer.from_pretrained(instruct).chat_template == texts
    out = merged(tmp_path / "out", base, {instruct: 0.4, domain: 1.0})
    assert AutoTokenizer.from_pretrained(out).chat_template == texts
    kept = merged(tmp_path / "kept", base, {instruct: -0.4, domain: 1.0})
    assert AutoTokenizer.from_pretrained(kept).chat_template == {
        "default": "plain {{ messages }}",
        "rag": "rag of the base",
    }


def test_a_template_by_another_name_alone(trio: tuple[Path, Path, Path], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    base, instruct, domain = trio
    (instruct / "chat_template.jinja").unlink()
    changed(instruct, "tokenizer_config.json", chat_template=[{"name": "rag", "template": "rag"}])
    out = merged(tmp_path / "out", base, {instruct: 0.4, domain: 1.0})
    assert AutoTokenizer.from_pretrained(out).chat_template == {"rag": "rag"}


@pytest.mark.parametrize("value", [7, ["x"], [{"name": "a"}], [{"name": "../a", "template": "x"}]])
def test_what_is_no_template_is_refused(trio: tuple[Path, Path, Path], tmp_path: Path, value: Any) -> None:
    base, instruct, _ = trio
    (instruct / "chat_template.jinja").unlink()
    changed(instruct, "tokenizer_config.json", chat_template=value)
    with pytest.raises(SurgeonError, match="neither a text nor a list of names and templates"):
        merged(tmp_path / "out", base, {instruct: 1.0})


@pytest.mark.parametrize("onto", ["domain", "instruct"])
def test_a_tokenizer_config_that_comes_with_the_names_of_rows(stories: Path, tmp_path: Path, onto: str) -> None:
    """One model gives a name to a row of padding, and so the output has its tokenizer's files; the other has its chat
    template and its end of a text in one of these."""
    from transformers import AutoTokenizer

    wide = extended(stories, tmp_path / "wide", ["lantern"], pad_to_multiple_of=64)
    base = trained(wide, tmp_path / "base", 9, lineage=False)
    named = trained(base, tmp_path / "named", 1, lineage=False)
    tokenizer = AutoTokenizer.from_pretrained(named)
    assert tokenizer.add_tokens(["<|note|>"]) == 1 and len(tokenizer) <= 576
    tokenizer.save_pretrained(named)
    for name in ("domain", "instruct"):
        trained(base, tmp_path / name, 2 if name == "domain" else 3, lineage=False)
    changed(tmp_path / "instruct", "tokenizer_config.json", chat_template="chat {{ messages }}", eos_token="<unk>")
    assert AutoTokenizer.from_pretrained(tmp_path / "instruct").chat_template == "chat {{ messages }}"
    weights = {named: 0.5, tmp_path / "domain": 0.6, tmp_path / "instruct": 0.7}
    out = AutoTokenizer.from_pretrained(merged(tmp_path / "out", base, weights, onto=str(tmp_path / onto)))
    assert (out.chat_template, out.eos_token) == ("chat {{ messages }}", "<unk>")
    assert out.convert_tokens_to_ids("<|note|>") == tokenizer.convert_tokens_to_ids("<|note|>")
