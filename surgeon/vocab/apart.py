"""An extension's output stands apart from all that it is made from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from surgeon import model_ref, registry
from surgeon.checkpoint.commit import check_apart
from surgeon.errors import SurgeonError
from surgeon.vocab.settings import ExtendVocabSettings, chosen_inits


def check_inputs_apart(settings: ExtendVocabSettings) -> None:
    """Refuse an output (with --force) over a corpus, a file or another model that is read, or inside that model:
    inputs are never changed."""
    donors = [] if settings.tokens_of is None else [model_ref.resolve(settings.tokens_of).path]
    named = list(_named(settings))
    check_apart(settings.out, [*donors, *(path for path in named if path.is_dir())])
    place = settings.out.resolve()
    for path in [*_texts(settings), *(path for path in named if path.is_file())]:
        if path.resolve().is_relative_to(place):
            raise SurgeonError(
                "the output holds a file that is read", f"{settings.out} and {path}", "choose another path"
            )


def _named(settings: ExtendVocabSettings) -> Iterator[Path]:
    """Files and models that the inits open, where these are local."""
    for use in chosen_inits(settings):
        for name in registry.get("init", use.init).trait("OPENS", {}):
            if use.options.get(name) is not None:
                yield Path(str(use.options[name]))


def _texts(settings: ExtendVocabSettings) -> Iterator[Path]:
    """Of the corpora, and of the tokens that are given."""
    if settings.tokens is not None:
        yield settings.tokens
    from surgeon.data.source import parse_corpus

    names: Iterable[str] = [*(settings.corpus or []), *(settings.keep_corpus or []), *(settings.probe or [])]
    for corpus in (parse_corpus(name, weighted=False) for name in names):
        if corpus.hub is None:
            yield corpus.path
