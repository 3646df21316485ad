"""Documents as the text that a model reads, and the characters of it that are to be learned."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from surgeon.data.source import Document
from surgeon.errors import SurgeonError

PLAIN_USER = "### Instruction:\n{content}\n### Response:\n"
"""The plain template of a user's message, for tokenizers without a chat template; the answer follows as it is."""

_UNDEFINED = re.compile(r"'(?P<name>\w+_token)' is undefined")  # jinja's words
_MARK = "\ue000\ue0ff\ue000"  # of the private use area: no letters that a template would change


class HiddenAnswerError(SurgeonError):
    """A template does not show an answer as it is, and so not what of a conversation is the answer."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """text; answers: half-open character ranges that answer (empty: a plain text, all of it counts);
    templated: the text came from the tokenizer's chat template, which writes its own special tokens."""

    text: str
    answers: tuple[tuple[int, int], ...] = ()
    templated: bool = False


def render(document: Document, tokenizer: Any, *, answers: bool = True) -> Rendered:
    """The document through the tokenizer's chat template if it has one, else through the plain one.

    answers: whether they are looked for; where all counts, a template need not show them as they are.
    Every answer's range begins where the prompt ends and stops at the end of its content; what the template
    writes behind it (end-of-turn tokens) is outside the range. Raises HiddenAnswerError where a template hides one,
    and SurgeonError on a record or a tokenizer that does not fit the template.
    """
    if document.text is not None:
        return Rendered(document.text)
    if tokenizer.chat_template and not answers:
        return Rendered(_apply(tokenizer, list(document.messages), document, False), templated=True)
    return _templated(document, tokenizer) if tokenizer.chat_template else _plain(document)


def _plain(document: Document) -> Rendered:
    text, answers = "", []
    for number, message in enumerate(document.messages):
        role, content = message["role"], message["content"]
        if role == "assistant":
            answers.append((len(text), len(text) + len(content)))
            text += content
            text += "\n" if number + 1 < len(document.messages) else ""
        elif role == "user":
            text += PLAIN_USER.format_map({"content": content})
        elif role == "system":
            text += content + "\n"
        else:
            raise SurgeonError(
                f"the plain template has no place for the role {role!r}",
                document.where,
                "give a tokenizer with a chat template, or use the roles system, user and assistant",
            )
    return Rendered(text, tuple(answers))


def _templated(document: Document, tokenizer: Any) -> Rendered:
    messages = list(document.messages)
    text = _apply(tokenizer, messages, document, False)
    exact = _exact(text, document, tokenizer)
    answers, position = [], 0
    for turn, (number, content) in enumerate((n, m["content"]) for n, m in enumerate(messages) if _answers(m)):
        prompt = _apply(tokenizer, messages[:number], document, True) if number else ""
        begin, end = exact[turn] if exact else _searched(text, content.strip(), prompt, position)
        if begin < 0:
            raise HiddenAnswerError(
                "the chat template does not show the answer as it is",
                document.where,
                f"use another template ({_place(tokenizer)}), or give the conversations written out as texts",
            )
        # what a template puts between the prompt and the answer is the model's to write
        shown = number > 0 and position <= len(prompt) and text.startswith(prompt)
        answers.append((min(begin, len(prompt)) if shown else begin, end))
        position = end
    return Rendered(text, tuple(answers), True)


def _answers(message: dict[str, str]) -> bool:
    return message["role"] == "assistant"


def _exact(text: str, document: Document, tokenizer: Any) -> list[tuple[int, int]]:
    """Where the answers stand, from the same text with marks in their places; empty where the two texts differ in more
    than that, as with a template that takes answers apart."""
    messages = document.messages
    try:
        hollow = _apply(tokenizer, [m | {"content": _MARK} if _answers(m) else m for m in messages], document, False)
    except SurgeonError:
        return []
    contents = [m["content"] for m in messages if _answers(m)]
    first, *parts = hollow.split(_MARK)
    if len(parts) != len(contents) or not text.startswith(first):
        return []
    found, at = [], len(first)
    for content, part in zip(contents, parts, strict=True):
        # templates may trim an answer
        ways = (content, content.strip(), content.lstrip(), content.rstrip(), content.strip("\n"))
        way = next((way for way in ways if text.startswith(way + part, at)), None)
        if way is None:
            return []
        found.append((at, at + len(way)))
        at += len(way) + len(part)
    return found if at == len(text) else []


def _searched(text: str, content: str, prompt: str, position: int) -> tuple[int, int]:
    """Where the answer behind a prompt stands, -1 where it does not. A generation prompt may go on otherwise than the
    text, and by chance agree with the first letters of the answer."""
    agreed = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(text, prompt, strict=False)))
    common = max(position, agreed)
    at = text.rfind(content, position, common + len(content))
    at = text.find(content, common) if at < 0 or not prompt else at
    return at, at + len(content)


def _apply(tokenizer: Any, messages: list[dict[str, str]], document: Document, ask: bool) -> str:
    from jinja2 import TemplateError, TemplateSyntaxError, UndefinedError

    several = tokenizer.chat_template
    if isinstance(several, dict) and "default" not in several:
        raise SurgeonError(
            f"there are chat templates ({', '.join(sorted(several))}), and none of them is the default",
            _place(tokenizer),
            "call the one that is meant default",
        )
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask))
    except TemplateSyntaxError as error:
        raise SurgeonError(
            f"the chat template cannot be read: {error}", _place(tokenizer), "mend the template"
        ) from error
    except UndefinedError as error:
        absent = _UNDEFINED.fullmatch(str(error))
        if absent is None:
            raise SurgeonError(
                f"the chat template asks for what is not there: {error}",
                f"{document.where}, and {_place(tokenizer)}",
                "add it to the record, or use a template that does without",
            ) from error
        raise SurgeonError(
            f"the chat template needs the {absent['name']}, which the tokenizer lacks",
            _place(tokenizer),
            f'name one of its tokens in tokenizer_config.json there ("{absent["name"]}": "..."), or use a template '
            "that does without",
        ) from error
    except TemplateError as error:  # a template refuses, for example, two messages of the same role in a row
        raise SurgeonError(
            f"the chat template refuses the record: {error}", document.where, "mend the record"
        ) from error
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # of the code that a template is
        raise SurgeonError(
            f"the chat template fails with {type(error).__name__}: {error}",
            f"{_place(tokenizer)}, with {document.where}",
            "mend the template, or the record where it is odd",
        ) from error


def _place(tokenizer: Any) -> str:
    """The file in which a tokenizer's chat template lies, as far as that can be told."""
    if not tokenizer.name_or_path:  # one that was made in memory
        return "the chat template"
    folder = Path(tokenizer.name_or_path)
    names = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
    return str(next((folder / name for name in names if (folder / name).is_file()), folder))
