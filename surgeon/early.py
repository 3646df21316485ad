"""What can be said against an operation without its models: wrong names of methods, wrong options, absent corpora.

A recipe asks it of every stage before the first one begins: the last may be days away. Each function that an entry
of surgeon.operations names takes the settings of that operation, and raises what it would raise itself. An input
stands there as its path, the output of a stage as the name of that stage.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, get_args, get_origin

from surgeon import registry
from surgeon.data.source import files, parse_corpus
from surgeon.errors import SurgeonError, UsageError
from surgeon.loading import resolve_device
from surgeon.model_ref import check_named
from surgeon.operations import operation
from surgeon.ops.output_dtype import dtype_code
from surgeon.recipe import Loaded, Stage, checked_settings, used

if TYPE_CHECKING:  # each reads what it needs: a recipe of merges does not import the trainer
    from surgeon.adapters.attach import AttachSettings
    from surgeon.adapters.fold import FoldSettings
    from surgeon.context.plan import ExtendContextSettings
    from surgeon.expand.plan import ExpandSettings
    from surgeon.measure.settings import EvaluateSettings
    from surgeon.merge.average import AverageSettings
    from surgeon.merge.models import MergeModelsSettings
    from surgeon.merge.settings import MergeSettings
    from surgeon.train.anneal import AnnealSettings
    from surgeon.train.export_settings import ExportSettings
    from surgeon.train.settings import CptSettings
    from surgeon.vocab.settings import ExtendVocabSettings


# settings that are a model, or a list of models with weights
_MODELS = ("model", "base", "onto", "teacher", "language_model", "tokens_of", "adapter")
_WEIGHTED = ("add", "models")


def check_stages(loaded: Loaded, done: Collection[str] = ()) -> None:
    """Raises SurgeonError that names the input or the stage; see above. done: stages that have been carried out with
    these very settings, of which nothing is asked."""
    inputs, stages = loaded.recipe.inputs, loaded.recipe.stages
    for name, model in inputs.items():
        if not _is_otherwise_used(name, stages.values()):
            _named(f"{loaded.source}: input {name}", check_named, model)
    for name, stage in stages.items():
        where = f"{loaded.source}: stage {name}"
        _named(where, _check_models, stage)
        if name not in done:
            _named(where, operation(stage.run).check_early, checked_settings(name, stage, inputs))


def _named(where: str, check: Callable[[Any], None], value: Any) -> None:
    with says_where(where):
        check(value)


@contextmanager
def says_where(where: str) -> Iterator[None]:
    """What is refused inside is of this input or stage."""
    try:
        yield
    except SurgeonError as error:
        raise type(error)(error.problem, f"{where}, {error.where}", error.hint) from error


def _is_otherwise_used(name: str, stages: Iterable[Stage]) -> bool:
    """Whether an input is only what is no model: the folder or the state of a run, a corpus."""
    keys = [k.replace("-", "_") for stage in stages for k in stage.uses if name in used(stage, k)]
    return bool(keys) and not set(keys) & {*_MODELS, *_WEIGHTED}


def _check_models(stage: Stage) -> None:
    """Models that a stage names by itself, not under `uses`."""
    from surgeon.merge.weights import parse_weight

    fields = operation(stage.run).settings_class().model_fields
    for key, value in stage.settings.items():
        field = key.replace("-", "_")
        if field in _MODELS and isinstance(value, str):
            check_named(value)
        elif field in _WEIGHTED and field in fields and _is_list(fields[field].annotation):
            for text in value if isinstance(value, list) else [value]:
                check_named(parse_weight(str(text))[0])


def _is_list(annotation: Any) -> bool:
    """Whether a setting takes several values: `add` is models of some operations, and a number of others."""
    return any(get_origin(a) is list for a in (annotation, *get_args(annotation)))


def expand_layers(settings: ExpandSettings) -> None:
    from surgeon.expand.plan import chosen_selector
    from surgeon.expand.undo import check_alone

    if settings.in_place:
        raise UsageError("a stage writes an output of its own, and leaves its input", "--in-place", "leave it out")
    if settings.undo:
        check_alone(settings)
        return
    selector, options = chosen_selector(settings)
    selector.bind(options)
    if ":" not in selector.name:  # one of a person's own may do without
        if settings.add is None and not selector.trait("COUNTS", False):
            raise UsageError(f"the selector {selector.name} needs the number of blocks to add", "--add", "add --add N")
        if settings.probe is None and "probe" in selector.supplied:
            raise UsageError(
                f"the selector {selector.name} probes the model on a text", "--probe", "add --probe CORPUS"
            )
    registry.get("fill", settings.fill).bind(settings.option_fill)
    _there([settings.probe])
    if "probe" in selector.supplied and "device" in options:
        resolve_device(selector.bind(options)["device"])


def extend_vocab(settings: ExtendVocabSettings) -> None:
    from surgeon.vocab.given import read_tokens
    from surgeon.vocab.script import AUTO, script_named
    from surgeon.vocab.settings import check_settings, chosen_inits

    check_settings(settings)
    for use in chosen_inits(settings):
        if settings.tokens_of is None or use.options.get("donor") != settings.tokens_of:  # may be a stage's output
            use.open()
    if settings.tokens is not None:
        read_tokens(settings.tokens)
    if settings.script not in (None, AUTO):
        script_named(str(settings.script))
    _there([*(settings.corpus or ()), *(settings.keep_corpus or ()), *(settings.probe or ())])


def extend_context(settings: ExtendContextSettings) -> None:
    from surgeon.context.change import check_wanted
    from surgeon.context.plan import wanted
    from surgeon.context.scaling import parse_scaling

    check_wanted(wanted(settings))
    if settings.rope_scaling is not None:
        parse_scaling(settings.rope_scaling)


def attach_adapter(settings: AttachSettings) -> None:
    from surgeon.adapters.attach import chosen_kind

    settings = settings.with_preset()
    kind = chosen_kind(settings)
    _there([settings.probe])
    if not kind.planned:  # it runs the model
        resolve_device(settings.device)


def fold_adapter(settings: FoldSettings) -> None:
    if "+" not in settings.model:
        raise UsageError("there is no adapter to fold", settings.model, "write MODEL+ADAPTER")
    dtype_code(settings.dtype)


def merge_task_vectors(settings: MergeSettings) -> None:
    from surgeon.merge.chosen import check_onto, chosen_method
    from surgeon.merge.members import given_lineage
    from surgeon.merge.weights import parse_weight
    from surgeon.search.held_out import corpora
    from surgeon.search.vectors import objective_of, refuse_alone

    method, _ = chosen_method(settings)
    check_onto(settings, method)
    dtype_code(settings.dtype)
    for text in settings.add:
        parse_weight(text)
    if settings.lineage is not None:
        given_lineage(settings.lineage)
    if not settings.search:
        refuse_alone(settings)
        return
    objective_of(settings, [corpus.name for corpus in corpora(settings.search)])
    _there(settings.search)


def merge(settings: MergeModelsSettings) -> None:
    from surgeon.merge.models import SEQUENCE, check_sequence, chosen_method
    from surgeon.merge.options import check_constant
    from surgeon.merge.weights import parse_weight

    dtype_code(settings.dtype)
    weights = [parse_weight(text)[1] for text in settings.models]
    if settings.method == SEQUENCE:
        check_sequence(settings)
    else:
        check_constant(*chosen_method(settings), weights)


def average(settings: AverageSettings) -> None:
    from surgeon.merge.average import asked_for
    from surgeon.merge.average_weights import average_weights

    dtype_code(settings.dtype)
    average_weights(settings.weights, asked_for(settings))


def cpt(settings: CptSettings) -> None:
    _training(settings)
    resolve_device(settings.device)


def _training(settings: CptSettings) -> None:
    import torch

    from surgeon.train.early import check_words
    from surgeon.train.probes import probes
    from surgeon.train.settings import methods
    from surgeon.train.shape import resolve_shape

    check_words(settings)
    probes(methods(settings))
    if settings.lengths is not None or settings.seq_len is not None:  # rows of the model's own length need the model
        resolve_shape(settings, None, torch.device("cpu"))


def cpt_export(settings: ExportSettings) -> None:
    registry.get("exporter", settings.to).bind(settings.option_to)
    _training(settings)  # to be done elsewhere: the device is not asked for


def cpt_anneal(settings: AnnealSettings) -> None:
    from surgeon.train.early import named_apart

    _there([*settings.data, *settings.replay], weighted=True)
    named_apart(settings.eval)
    _there([*settings.eval, *settings.probe])
    if settings.device is not None:
        resolve_device(settings.device)


def evaluate(settings: EvaluateSettings) -> None:
    from surgeon.measure.perplexity import check_words
    from surgeon.measure.tasks import Tasks, known_tasks

    tasks = Tasks(settings.tasks, settings.task_folder, settings.shots, settings.limit, settings.batch, settings.chat)
    check_words(settings.models, settings.data, settings.by_position, settings.positions, tasks, settings.stages)
    _there(settings.data)
    if settings.tasks:
        known_tasks(tasks)
    resolve_device(settings.device)


def _there(corpora: Iterable[str | None], weighted: bool = False) -> None:
    for text in corpora:
        corpus = None if text is None else parse_corpus(text, weighted=weighted)
        if corpus is not None and corpus.hub is None:
            files(corpus)
