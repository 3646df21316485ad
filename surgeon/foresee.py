"""What operations refuse of a model without its weights; and what they will write of it, as far as that is known then.

Each takes settings in which stand-ins (see surgeon.foreseen) have the places of models that are not there yet, raises
by the functions by which the operation itself raises, and makes at `out` a stand-in for its output. It leaves `out`
alone where the output follows from weights or corpora, and says nothing where the model is not at hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from surgeon.checkpoint.index import CONFIG, Checkpoint
from surgeon.errors import SurgeonError
from surgeon.foreseen import extended, stand_in_of, trained, with_tokens
from surgeon.model_ref import is_local, resolve
from surgeon.ops.check import check
from surgeon.ops.plan import Plan

if TYPE_CHECKING:  # each reads what it needs
    from surgeon.adapters.attach import AttachSettings
    from surgeon.adapters.fold import FoldSettings
    from surgeon.context.plan import ExtendContextSettings
    from surgeon.expand.plan import ExpandSettings
    from surgeon.merge.average import AverageSettings
    from surgeon.merge.models import MergeModelsSettings
    from surgeon.merge.settings import MergeSettings
    from surgeon.multimodal.extract import ExtractSettings
    from surgeon.train.anneal import AnnealSettings
    from surgeon.train.export_settings import ExportSettings
    from surgeon.train.settings import CptSettings
    from surgeon.vocab.settings import ExtendVocabSettings

_VALUES = {"checkpoint", "probe"}  # what a selector asks for that looks into weights


def expand_layers(settings: ExpandSettings, out: Path) -> None:
    from surgeon.expand.plan import chosen_selector, plan_expand

    if not is_local(settings.model):
        return
    if settings.undo or _VALUES & set(chosen_selector(settings)[0].supplied):
        return
    _planned(plan_expand(settings), out)


def extend_vocab(settings: ExtendVocabSettings, out: Path) -> None:
    from surgeon.vocab.given import read_tokens
    from surgeon.vocab.named_elsewhere import check_appended
    from surgeon.vocab.plan import open_model
    from surgeon.vocab.rows import head_name

    if not is_local(settings.model):
        return
    reference = resolve(settings.model)
    if reference.adapter is None and extended(Checkpoint.open(reference.path)):
        return  # of a stage's output, whose tokens are not known yet
    opened = open_model(settings)
    check_appended(reference.path, opened.tokenizer, opened.rows)
    count = len(read_tokens(settings.tokens)) if settings.tokens is not None else settings.add or 1  # about so many
    last = opened.first + count
    size = max(opened.rows, -(-last // (settings.pad_to_multiple_of or 1)) * (settings.pad_to_multiple_of or 1))
    untied = head_name(opened.family) if settings.untie else None
    with_tokens(opened.checkpoint, out, opened.family, range(opened.first, last), size, untied)


def extend_context(settings: ExtendContextSettings, out: Path) -> None:
    from surgeon.context.plan import plan_extend_context

    if not is_local(settings.model):
        return
    _planned(plan_extend_context(settings), out)


def extract_language_model(settings: ExtractSettings, out: Path) -> None:
    from surgeon.multimodal.extract import plan_extract

    if not is_local(settings.model):
        return
    _planned(plan_extract(settings), out)


def attach_adapter(settings: AttachSettings, out: Path) -> None:
    from surgeon.adapters.attach import fit, plan_attach

    if not is_local(settings.model):
        return
    if fit(settings).kind.planned:
        _planned(plan_attach(settings), out)


def fold_adapter(settings: FoldSettings, out: Path) -> None:
    from surgeon.adapters.apply import applied
    from surgeon.adapters.targets import module_name
    from surgeon.arch.family import family_of

    if not is_local(settings.model):
        return
    reference = resolve(settings.model)
    if reference.adapter is None:
        return
    checkpoint = Checkpoint.open(reference.path)
    if _has_rows_of_its_own(reference.adapter.path, checkpoint, out):
        return
    family = family_of(checkpoint)
    held = applied(checkpoint, family, reference.adapter.path)
    outside = {module_name(family, family.embedding), family.declaration.head}
    if settings.add or (family.tied and outside & set(held.adapter.touched)):
        return  # whether it stays tied is known by values
    trained(checkpoint, out)


def merge_task_vectors(settings: MergeSettings, out: Path) -> None:
    from surgeon.merge.called import check_called
    from surgeon.merge.chosen import chosen_method
    from surgeon.merge.weights import parse_weight

    entries = [parse_weight(text) for text in settings.add]
    models = [settings.base, *([] if settings.onto is None else [settings.onto]), *(name for name, _ in entries)]
    if settings.chat is not None:
        check_called(settings.chat, models)
    if not all(map(is_local, models)):
        return
    _, options = chosen_method(settings)
    opened = [_model(text) for text in models]
    target = opened[1] if settings.onto is not None else max(opened, key=_reach)
    roles = _roles(target)
    options.check(roles)
    for name, weight in entries:
        weight.check(roles, f"--add {resolve(name).name}")
    # what the lineages do not tell (blocks that a person names, an expansion that was undone) decides, too
    outgrown = settings.onto is None and any(_exceeds(model, target) for model in opened)
    if not settings.untie and not outgrown:
        trained(target, out)


def merge(settings: MergeModelsSettings, out: Path) -> None:
    from surgeon.merge.models import SEQUENCE, chosen_method
    from surgeon.merge.weights import parse_weight

    entries = [parse_weight(text) for text in settings.models]
    if not all(is_local(name) for name, _ in entries):
        return
    first = _model(entries[0][0])
    if settings.method != SEQUENCE:
        _, options = chosen_method(settings)
        roles = _roles(first)
        options.check(roles)
        for name, weight in entries:
            weight.check(roles, resolve(name).name)
    if "+" not in entries[0][0]:
        trained(first, out)


def of_a_run(settings: AverageSettings | AnnealSettings, out: Path) -> None:
    """The model is that of the run: what is at its output, if it is there."""
    folder = Path(settings.run)
    if not (folder / CONFIG).is_file():
        return
    try:
        model = Checkpoint.open(folder)
    except SurgeonError:  # a folder of checkpoints may hold a config.json too: what it reads there it judges itself
        return
    trained(model, out)


def _has_rows_of_its_own(adapter: Path, checkpoint: Checkpoint, out: Path) -> bool:
    """Whether the adapter is there and the vocabulary of its model is not: it may hold as many rows as that will have,
    which the stand-in's number is not."""
    return extended(checkpoint) and adapter.parent != out.parent


def _model(text: str) -> Checkpoint:
    return Checkpoint.open(resolve(text).path)


def _reach(checkpoint: Checkpoint) -> tuple[int, int, int]:
    """A merge is aligned onto the model to which most operations led, then onto one whose context was extended, or
    that has rows of its own."""
    steps = [] if checkpoint.lineage is None else list(checkpoint.lineage.chain())
    return sum(s.moves for s in steps), sum(s.context is not None for s in steps), _size(checkpoint)[1]


def _exceeds(checkpoint: Checkpoint, target: Checkpoint) -> bool:
    """Whether it has more of something than the target, and so may be the target itself."""
    mine, its = (*_size(checkpoint), _reach(checkpoint)[1]), (*_size(target), _reach(target)[1])
    return any(one > other for one, other in zip(mine, its, strict=True))


def _size(checkpoint: Checkpoint) -> tuple[int, int]:
    """Its blocks and rows."""
    from surgeon.arch.family import family_of

    family = family_of(checkpoint)
    return family.depth, checkpoint.tensor(family.embedding).shape[0]


def _roles(checkpoint: Checkpoint) -> set[str]:
    from surgeon.arch.family import family_of

    family = family_of(checkpoint)
    # of a tied model too: a merge may give it a head of its own
    return {family.role(name) for name in (*checkpoint.tensors, f"{family.declaration.head}.weight")}


def cpt(settings: CptSettings, out: Path) -> None:
    from surgeon.loading import is_encoder, resolve_device
    from surgeon.train.by_shapes import rows_by_shapes, select_by_shapes
    from surgeon.train.encoders import check_encoder
    from surgeon.train.settings import methods

    if not is_local(settings.model):
        return
    reference = resolve(settings.model)
    checkpoint = Checkpoint.open_model(reference.path)
    adapter = None if reference.adapter is None else reference.adapter.path
    if adapter is not None and _has_rows_of_its_own(adapter, checkpoint, out):
        return
    check_encoder(settings, methods(settings), is_encoder(reference.path))
    chosen = select_by_shapes(settings, reference.path, adapter, checkpoint.lineage)
    rows_by_shapes(settings, chosen.skeleton, resolve_device(settings.device))
    trained(checkpoint if adapter is None else Checkpoint.open(adapter), out)


def cpt_export(settings: ExportSettings, out: Path) -> None:
    import torch

    from surgeon.loading import context_length, load_skeleton
    from surgeon.train.shape import resolve_shape
    from surgeon.train.trainable import check_trained_adapter, select

    if not is_local(settings.model):
        return
    reference = resolve(settings.model)
    checkpoint = Checkpoint.open_model(reference.path)
    check_trained_adapter(settings.train, reference.adapter)
    model = load_skeleton(reference.path, settings.trust_remote_code)
    resolve_shape(settings, context_length(model), torch.device("cuda"))
    if reference.adapter is None:
        select(model, settings.train, checkpoint.lineage, settings.group)


def _planned(plan: Plan, out: Path) -> None:
    check(plan)
    stand_in_of(plan, out)
