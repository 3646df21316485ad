"""What can be said against an operation without its models: wrong names of methods, wrong options, absent corpora.

A recipe asks it of every stage before the first one begins: the last may be days away. Each function that an entry
of surgeon.operations names takes the settings of that operation, and raises what it would raise itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from surgeon import registry
from surgeon.data.source import files, parse_corpus
from surgeon.errors import SurgeonError
from surgeon.model_ref import check_named
from surgeon.operations import operation
from surgeon.recipe import Loaded, checked_settings

if TYPE_CHECKING:  # each reads what it needs: a recipe of merges does not import the trainer
    from surgeon.adapters.attach import AttachSettings
    from surgeon.expand.plan import ExpandSettings
    from surgeon.measure.settings import EvaluateSettings
    from surgeon.merge.models import MergeModelsSettings
    from surgeon.merge.settings import MergeSettings
    from surgeon.train.anneal import AnnealSettings
    from surgeon.train.settings import CptSettings
    from surgeon.vocab.settings import ExtendVocabSettings


def check_stages(loaded: Loaded) -> None:
    """Raises SurgeonError that names the input or the stage; see above."""
    for name, model in loaded.recipe.inputs.items():
        try:
            check_named(model)
        except SurgeonError as error:
            raise type(error)(error.problem, f"{loaded.source}: input {name}, {error.where}", error.hint) from error
    for name, stage in loaded.recipe.stages.items():
        try:
            operation(stage.run).check_early(checked_settings(name, stage))
        except SurgeonError as error:
            raise type(error)(error.problem, f"{loaded.source}: stage {name}, {error.where}", error.hint) from error


def expand_layers(settings: ExpandSettings) -> None:
    from surgeon.expand.plan import chosen_selector

    if settings.undo:
        return
    selector, options = chosen_selector(settings)
    selector.bind(options)
    registry.get("fill", settings.fill).bind(settings.option_fill)
    _there([settings.probe])


def extend_vocab(settings: ExtendVocabSettings) -> None:
    from surgeon.vocab.settings import check_settings

    check_settings(settings)
    _there([*(settings.corpus or ()), *(settings.keep_corpus or ()), *(settings.probe or ())])


def attach_adapter(settings: AttachSettings) -> None:
    from surgeon.adapters.attach import chosen_kind

    chosen_kind(settings)
    _there([settings.probe])


def merge_task_vectors(settings: MergeSettings) -> None:
    from surgeon.merge.plan import chosen_method
    from surgeon.search.held_out import corpora

    chosen_method(settings)
    corpora(settings.search)


def merge(settings: MergeModelsSettings) -> None:
    from surgeon.merge.models import SEQUENCE, chosen_method

    if settings.method != SEQUENCE:
        chosen_method(settings)


def cpt(settings: CptSettings) -> None:
    from surgeon.train.early import check_words
    from surgeon.train.probes import probes
    from surgeon.train.settings import methods

    check_words(settings)
    probes(methods(settings))


def cpt_anneal(settings: AnnealSettings) -> None:
    _there([*settings.data, *settings.replay], weighted=True)
    _there([*settings.eval, *settings.probe])


def evaluate(settings: EvaluateSettings) -> None:
    _there(settings.data)


def _there(corpora: Iterable[str | None], weighted: bool = False) -> None:
    for text in corpora:
        corpus = None if text is None else parse_corpus(text, weighted=weighted)
        if corpus is not None and corpus.hub is None:
            files(corpus)
