"""Documents as the text that a model reads, and the characters of it that are to be learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from surgeon.data.source import Document
from surgeon.errors import SurgeonError

PLAIN_USER = "### Instruction:\n{content}\n### Response:\n"
"""The plain template of a user's message, for tokenizers without a chat template; the answer follows as it is."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """text; answers: half-open character ranges that answer (empty: a plain text, all of it counts);
    templated: the text came from the tokenizer's chat template, which writes its own special tokens."""

    text: str
    answers: tuple[tuple[int, int], ...] = ()
    templated: bool = False


def render(document: Document, tokenizer: Any) -> Rendered:
    """The document through the tokenizer's chat template if it has one, else through the plain one.

    Every answer's range begins where the prompt ends and stops at the end of its content; what the template
    writes behind it (end-of-turn tokens) is outside the range.
    """
    if document.text is not None:
        return Rendered(document.text)
    if tokenizer.chat_template:
        return _templated(document, tokenizer)
    return _plain(document)


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
    answers, position = [], 0
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        # templates may trim content or, with a generation prompt, open a block that training data lacks: the answer
        # is looked for behind the rendered prompt, and a template that shows it nowhere is refused
        prompt = _apply(tokenizer, messages[:number], document, True) if number else ""
        begin = len(prompt) if text.startswith(prompt) else position
        content = message["content"].strip()
        at = text.find(content, max(begin, position))
        if at < 0:
            raise SurgeonError(
                "the chat template does not show the answer as it is",
                document.where,
                "use another template, or --loss-on all",
            )
        answers.append((min(at, begin) if text.startswith(prompt) else at, at + len(content)))
        position = at + len(content)
    return Rendered(text, tuple(answers), True)


def _apply(tokenizer: Any, messages: list[dict[str, str]], document: Document, ask: bool) -> str:
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask))
    except TemplateError as error:  # a template refuses, for example, two messages of the same role in a row
        raise SurgeonError(
            f"the chat template refuses the record: {error}", document.where, "mend the record"
        ) from error
