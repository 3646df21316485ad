"""The answers that a chat template shows are learned, with what ends them, and nothing else is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from surgeon.data.source import Document, parse_corpus
from surgeon.data.template import render
from surgeon.data.tokens import encode, targets, tokenise
from surgeon.errors import SurgeonError
from surgeon.loading import load_tokenizer
from surgeon.train.job import prepare
from surgeon.train.settings import CptSettings

TURNS = "{% for m in messages %}<turn>{{ m.role }}\n{{ m.content }}<end_of_turn>\n{% endfor %}"
ASKED = TURNS + "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
THINKING = TURNS + "{% if add_generation_prompt %}<turn>assistant\n<think>\n{% endif %}"
SYSTEM = "<turn>system\nBe kind.<end_of_turn>\n" + ASKED
UNASKED = "{% for m in messages %}<turn>{{ m.role }}\n{{ m.content }}<end_of_turn>{% endfor %}"
# of Llama 2, as far as it writes turns
SPACED = (
    "{% for m in messages %}{% if m.role == 'user' %}<s>[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content.strip() }} {{ eos_token }}{% endif %}{% endfor %}"
)


@pytest.fixture
def tokenizer(stories: Path) -> PreTrainedTokenizerFast:
    """With marks of turns that are special by themselves, and have no role."""
    plain = Tokenizer.from_file(str(stories / "tokenizer.json"))
    plain.add_special_tokens(["<turn>", "<end_of_turn>"])
    return PreTrainedTokenizerFast(tokenizer_object=plain, bos_token="<s>", eos_token="</s>")


def learned(tokenizer: Any, template: str, *turns: str) -> str:
    """What is learned of turns that begin with the user's; of `assistant: text` the assistant's."""
    roles = ("user", "assistant")
    messages: list[dict[str, str]] = []
    for number, turn in enumerate(turns):
        first = turns[0].startswith("assistant: ")
        messages.append({"role": roles[(number + first) % 2], "content": turn.removeprefix("assistant: ")})
    tokenizer.chat_template = template
    shown = render(Document("a.jsonl:1", None, tuple(messages)), tokenizer)
    ((ids, spans),) = encode([shown], tokenizer)
    held = targets(shown, ids, spans, tokenizer)
    return "".join(shown.text[slice(*span)] for span, learn in zip(spans, held, strict=True) if learn)


def test_the_end_of_a_turn_is_learned_though_it_has_no_role(tokenizer: PreTrainedTokenizerFast) -> None:
    assert "<end_of_turn>" not in tokenizer.all_special_tokens
    assert learned(tokenizer, ASKED, "Hi", "Hello", "Bye", "Now") == "Hello<end_of_turn>Now<end_of_turn>"


def test_white_space_between_an_answer_and_its_end_is_learned(tokenizer: PreTrainedTokenizerFast) -> None:
    assert learned(tokenizer, SPACED, "Hi", "Hello", "Bye", "Now").replace(" ", "") == "Hello</s>Now</s>"


@pytest.mark.parametrize("answer", ["Hello\n", "Hello  ", "  Hello \n\n"])
def test_an_answer_that_ends_with_white_space_is_learned_with_its_end(
    tokenizer: PreTrainedTokenizerFast, answer: str
) -> None:
    assert "".join(learned(tokenizer, ASKED, "Hi", answer).split()) == "Hello<end_of_turn>"


@pytest.mark.parametrize("template", [ASKED, THINKING, SYSTEM])
@pytest.mark.parametrize(
    "turns", [("Say yes", "yes"), ("b a b", "b", "a yes a", "a"), ("assistant", "assistant"), ("turn", "<think>")]
)
def test_an_answer_that_the_question_holds_too_is_learned_once_and_in_its_place(
    tokenizer: PreTrainedTokenizerFast, template: str, turns: tuple[str, ...]
) -> None:
    assert learned(tokenizer, template, *turns) == "".join(f"{answer}<end_of_turn>" for answer in turns[1::2])


def test_an_answer_that_its_own_heading_holds_is_learned(tokenizer: PreTrainedTokenizerFast) -> None:
    # a template without a prompt for the answer leaves its heading to the model
    found = learned(tokenizer, UNASKED, "Hi", "a", "Bye", "assistant")
    assert found == "<turn>assistant\na<end_of_turn><turn>assistant\nassistant<end_of_turn>"


def test_what_stands_before_a_first_answer_is_not_learned(tokenizer: PreTrainedTokenizerFast) -> None:
    assert learned(tokenizer, SYSTEM, "assistant: Hello", "Hi", "Now") == "Hello<end_of_turn>Now<end_of_turn>"


def test_answers_are_found_where_the_template_takes_others_apart(tokenizer: PreTrainedTokenizerFast) -> None:
    split = THINKING.replace("{{ m.content }}", "{{ m.content.split('|')[-1] }}")
    assert learned(tokenizer, split, "yes|no yes", "yes") == "yes<end_of_turn>"
    # with a mark in its place this template writes more than the answer
    longer = THINKING.replace("{{ m.content }}", "{{ m.content if m.content | length < 4 else m.content ~ '.' * 3 }}")
    assert learned(tokenizer, longer, "Say no", "no") == "no<end_of_turn>"


def test_all_of_a_conversation_is_learned_where_a_template_does_not_show_its_answers(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """As those that leave out what was thought in earlier turns."""
    tokenizer.chat_template = ASKED.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1] | trim | upper }}")
    turns = [("user", "Hi"), ("assistant", "<think>a</think> b"), ("user", "Bye"), ("assistant", "Now")]
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}) + "\n")
    corpus = parse_corpus(str(path))
    with pytest.raises(SurgeonError, match="does not show the answer") as refused:
        tokenise(corpus, tokenizer)
    assert "written out as texts" in refused.value.hint
    found = tokenise(corpus, tokenizer, "all")
    assert found.instruct and found.learned == found.num_tokens - 1  # the start
    shown = tokenizer.apply_chat_template(json.loads(path.read_text())["messages"], tokenize=False)
    assert found.ids.tolist()[1:-1] == tokenizer(shown, add_special_tokens=False).input_ids


@pytest.mark.parametrize(
    ("template", "problem", "place", "hint"),
    [
        ("{{ bos_token + 'x' }}" + ASKED, "needs the bos_token, which the tokenizer lacks", "config", '"bos_token":'),
        ("{{ sep_token[0] }}" + ASKED, "needs the sep_token", "tokenizer_config.json", "does without"),
        ("{{ messages[0].name + 'x' }}" + ASKED, "asks for what is not there", "a.jsonl:1", "add it to the record"),
        ("{% for %}", "cannot be read", "tokenizer_config.json", "mend the template"),
        ("{{ messages[0].content + 3 }}", "fails with TypeError", "tokenizer_config.json, with a.jsonl:1", "mend"),
        ([{"name": "rag", "template": "x"}], "none of them is the default", "tokenizer_config.json", "default"),
        ("{{ raise_exception('no cats') }}", "refuses the record: no cats", "a.jsonl:1", "mend the record"),
    ],
)
@pytest.mark.parametrize("answers", [True, False])
def test_what_a_template_asks_for_in_vain_is_named_with_its_place(
    template: Any, problem: str, place: str, hint: str, answers: bool, stories: Path, tmp_path: Path
) -> None:
    """Of the tokenizer, of the record, or of itself."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(stories / name, tmp_path / name)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    del settings["bos_token"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": template}))
    document = Document("a.jsonl:1", None, ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Oh"}))
    with pytest.raises(SurgeonError, match=problem) as refused:
        render(document, load_tokenizer(tmp_path), answers=answers)
    assert place in refused.value.where and hint in refused.value.hint


def test_only_of_what_is_trained_on_all_can_be_learned(stories: Path, tmp_path: Path) -> None:
    """The way out of a template that hides answers: evaluations and probes have another one."""
    model = tmp_path / "model"
    shutil.copytree(stories, model)
    settings = json.loads((model / "tokenizer_config.json").read_text())
    hiding = ASKED.replace("{{ m.content }}", "{{ m.content | upper }}")
    (model / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": hiding}))
    path = tmp_path / "a.jsonl"
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Now"}]
    path.write_text(json.dumps({"messages": turns}) + "\n")
    given = {"model": str(model), "out": str(tmp_path / "out"), "data": [str(path)], "tokens": 64, "seq_len": 32}
    with pytest.raises(SurgeonError, match="does not show the answer") as refused:
        prepare(CptSettings(**given))
    assert "--loss-on all" in refused.value.hint
    given |= {"loss_on": "all", "batch_tokens": 32}
    assert prepare(CptSettings(**given)).data.sources[0].packed.tokens.instruct
    with pytest.raises(SurgeonError, match="does not show the answer") as refused:
        prepare(CptSettings(**given, eval=[f"held={path}"]))
    assert "--loss-on" not in refused.value.hint and "written out as texts" in refused.value.hint
