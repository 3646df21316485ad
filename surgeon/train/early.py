"""What can be said against a run before anything large is read: words that are wrong, files that are absent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from surgeon.data.mixture import check_weights
from surgeon.data.order import parse_order
from surgeon.data.source import Corpus, files, parse_corpus
from surgeon.errors import UsageError
from surgeon.train import corpora
from surgeon.train.batch_ramp import check_ramp
from surgeon.train.groups import parse_group
from surgeon.train.naming import named
from surgeon.train.other_teacher import check_teacher
from surgeon.train.settings import CptSettings, methods
from surgeon.train.shape import resolve_stages
from surgeon.train.trainable import ROLE, SETS, compiled


def check_words(settings: CptSettings) -> None:
    """Raise what a wrong word or an absent file raises, without the model and without a byte of the corpora.

    What depends on the model (a context, names of tensors) or on the size of a corpus is refused later.
    """
    resolve_stages(settings)
    if settings.train not in SETS and not settings.train.startswith(ROLE):
        compiled(settings.train)
    for name, value in (("beta1", settings.betas[0]), ("beta2", settings.betas[1])):
        if not 0 <= value < 1:
            raise UsageError(f"{name} is {value:g}", "--betas", "give two numbers from 0 to below 1, as 0.9,0.95")
    if settings.batch_ramp is not None:
        check_ramp(settings.batch_ramp)
    for word in settings.group:
        parse_group(word)
    parse_order(settings.order)
    named = corpora.corpora(settings)
    corpora.check_replay(settings)
    if not corpora.mixture_stages(settings, named):
        check_weights([corpus.weight for corpus, _ in named], [replay for _, replay in named])
    corpora.check_sampling(settings, named)
    _check_together(settings)  # methods read the mixture too, and what is wrong in it is not theirs
    for corpus in [*(corpus for corpus, _ in named), *evals(settings)]:
        if corpus.hub is None:
            files(corpus)


def _check_together(settings: CptSettings) -> None:
    """Hooks act behind the optimizer and in the order in which they are named: what would undo another's work is
    refused (LAST and BY_ELEMENT of a hook's module, HOLDS of an optimizer's, see surgeon.train.hook). What a method of
    any kind can say by itself against the words of a run it says in CHECK(settings, options) of its module."""
    chosen = methods(settings)
    for held in chosen.values():
        for method, given in held:
            check = method.trait("CHECK")
            if check is not None:
                named(method, check, settings, given)
    for method, _ in chosen["meta"][:-1]:
        if method.trait("LAST", False):
            raise UsageError(
                f"{method.name} keeps parameters in a form of its own, and what acts behind it would be lost",
                f"--meta {method.name}",
                f"name {method.name} once, behind all others",
            )
    ((objective, _),) = chosen["objective"]
    check_teacher(settings.teacher, objective)
    ((optimizer, options),) = chosen["optimizer"]
    holds = optimizer.trait("HOLDS")
    for method, _ in chosen["meta"]:
        if holds is not None and holds(options) and method.trait("BY_ELEMENT", False):
            raise UsageError(
                f"{method.name} moves each element by itself, out of the directions that {optimizer.name} holds",
                f"--meta {method.name}",
                "use its regularizer, whose gradient the optimizer sees, or --optimizer adamw",
            )


def evals(settings: CptSettings) -> list[Corpus]:
    """The corpora of --eval in the order given; names must differ."""
    return named_apart(settings.eval, text_field=settings.text_field, lines=settings.lines)


def named_apart(texts: Sequence[str], **how: Any) -> list[Corpus]:
    """NAME=PATH each. how: they are read. Raises UsageError on one name twice."""
    found: list[Corpus] = []
    for text in texts:
        corpus = parse_corpus(text, weighted=False, **how)
        if any(corpus.name == other.name for other in found):
            raise UsageError(f"two eval corpora are called {corpus.name!r}", "--eval", "name them: NAME=PATH")
        found.append(corpus)
    return found
