"""The rows of the vocabulary's matrices: each init run, projected, calibrated, and turned into sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from surgeon import registry
from surgeon.arch.family import Family
from surgeon.checkpoint.header import StoredTensor
from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import UsageError
from surgeon.ops.plan import Source
from surgeon.progress import SILENT, Progress
from surgeon.vocab.aligned import Aligned
from surgeon.vocab.matrix import Tables, attached, checked, matrix_source, mean_rows
from surgeon.vocab.settings import ExtendVocabSettings, Use, budget, chosen_inits
from surgeon.vocab.texts import Encoded, Texts
from surgeon.vocab.tokenizer_json import TokenizerFile
from surgeon.vocab.tokens import NewTokens
from surgeon.vocab.usable import usable_ids

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class NewRows:
    """sources: of every tensor with a row a token. attachments: the tables they read. calibration: what the probe
    measured (None without one). given: of each matrix, the Combination or the float64 rows, as they are stored."""

    sources: dict[str, Source]
    attachments: dict[str, bytes]
    calibration: dict[str, Any] | None = None
    given: dict[str, Any] = field(default_factory=dict)


def new_rows(
    settings: ExtendVocabSettings,
    checkpoint: Checkpoint,
    family: Family,
    old: TokenizerFile,
    new: NewTokens,
    num_rows: int,
    progress: Progress = SILENT,
) -> NewRows:
    """Run the inits on the checkpoint's matrices; rows beyond the new ids and the old ones are padding."""
    from surgeon.vocab.body import Body
    from surgeon.vocab.hull import Combination

    tied = is_tied(family, settings)
    head = family.embedding if tied else head_name(family)
    body = Body(checkpoint.path, settings.device)
    probe = Encoded(old, Texts(settings.probe, settings)) if settings.probe else None
    matrices = _Matrices(checkpoint, {head: family.embedding} if settings.untie else {})
    text = new.sequences
    aligned = Aligned(old, text.file, text.texts) if isinstance(text, Encoded) else None
    shared = {"old_file": old, "body": body, "probe": probe, "tied": tied, "progress": progress, "aligned": aligned}
    shared["old_loss_budget"] = budget(settings)
    first, last = chosen_inits(settings)
    uses = [("input", family.embedding, first)] + ([] if tied else [("output", head, last)])
    fitted = any(registry.get("init", use.init).trait("READS_PROBE", False) for _, _, use in uses)
    if probe is not None:
        body.check_text(probe, halves=fitted)  # before anything is trained
    found: dict[str, Any] = {}
    news: dict[str, NewTokens] = {}
    pairs: dict[str, Any] = {}
    for _, name, _ in uses:
        news[name] = replace(new, usable=usable_ids(old, matrices.stored(name)))
    also = set(news[head].usable)
    in_both = tuple(i for i in news[family.embedding].usable if i in also)
    for role, name, use in uses:
        stored = matrices.stored(name)
        paired = registry.get("init", use.init).trait("PAIRED", False)
        told = replace(new, usable=in_both) if paired else news[name]
        supply = shared | {"new": told, "role": role} | _seeds(settings, name)
        supply |= matrices.supplied(use, embed_VD=name, input_VD=family.embedding, output_VD=head)
        given = _run(use, supply, pairs, role)
        where = f"init {use.init!r}"
        if settings.project == "hull" and not isinstance(given, Combination):
            from surgeon.vocab.project import project_hull

            checked(given, len(new), stored.shape[0], where)
            given = project_hull(given, matrices[name], news[name].usable, progress)
        found[name] = checked(given, len(new), stored.shape[0], where)
    calibration = None
    bias_V = None if family.head_bias is None else matrices[family.head_bias]
    bias = None if bias_V is None else _own_bias(uses[-1][2], found[head], news[head], old, bias_V)
    if probe is not None:
        from surgeon.vocab.budget import MEASURED_HALF, calibrated

        found[head], measured = calibrated(
            body, found[head], matrices[head], news[head], probe, budget(settings), progress,
            padding=num_rows - len({*range(matrices.stored(head).shape[0]), *new.ids}),
            half=MEASURED_HALF if fitted else None, bias=bias,
        )  # fmt: skip
        calibration = measured.to_json()
    tables = Tables()
    sources: dict[str, Source] = {}
    for role, name, _ in uses:
        sources[name] = matrix_source(matrices.stored(name), news[name], found[name], num_rows, tables, role)
    if tied and family.head is not None:  # the same matrix stored twice
        sources[family.head] = sources[family.embedding]
    if (
        family.head_bias is not None
    ):  # mixed as the rows are; where they are no mixture, the init's own or the mean bias
        mixture = found[head] if isinstance(found[head], Combination) else mean_rows(news[head], len(new))
        mixture = mixture if bias is None else bias
        sources[family.head_bias] = matrix_source(
            checkpoint.tensor(family.head_bias), news[head], mixture, num_rows, tables, "output_bias"
        )
    table, raw = tables.encode()
    return NewRows({t: attached(s, table) for t, s in sources.items()}, {table: raw}, calibration, found)


def _own_bias(use: Use, rows: Any, new: NewTokens, old: TokenizerFile, bias_V: Tensor) -> Tensor | None:
    """Biases [N] of an init whose module has some beside its dense rows (BIAS); None where they are mixed."""
    from surgeon.vocab.hull import Combination

    method = registry.get("init", use.init)
    gives = method.trait("BIAS")
    return (
        None if gives is None or isinstance(rows, Combination) else gives(new, bias_V, old, **method.bind(use.options))
    )


def is_tied(family: Family, settings: ExtendVocabSettings) -> bool:
    """Whether one matrix serves as input and output after the extension; refuses to untie what is not tied, and two
    inits for one matrix."""
    tied = family.head is None or family.tied
    if settings.untie and not tied:
        raise UsageError("the model's matrices are not tied", "--untie", "leave it out")
    first, last = chosen_inits(settings)
    if tied and not settings.untie and first != last:
        raise UsageError(
            "the model's matrices are tied: there is one init", "--init-output", "leave it out, or add --untie"
        )
    return tied and not settings.untie


def head_name(family: Family) -> str:
    """What the output matrix is called where it is stored."""
    return family.head or f"{family.declaration.head}.weight"


def _seeds(settings: ExtendVocabSettings, name: str) -> dict[str, int]:
    """pair_seed is the same for both matrices: for an init that trains them together."""
    from surgeon.ops.evaluate import tensor_seed

    return {"seed": tensor_seed(settings.seed, name), "pair_seed": settings.seed}


def _run(use: Use, supply: Mapping[str, Any], pairs: dict[str, Any], role: str) -> Any:
    """What the init gives for this matrix; one that trains both together (PAIRED) is called once for both."""
    method = registry.get("init", use.init)
    if not method.trait("PAIRED", False):
        return method.call(supply, use.options)
    key = f"{use.init} {sorted(use.options.items())}"
    if key not in pairs:
        pairs[key] = method.call(supply, use.options)
    given_input, given_output = pairs[key]
    return given_input if role == "input" else given_output


class _Matrices:
    """Matrices of the vocabulary, each read once, and only if something asks for it. made_from: a matrix that the
    extension adds -> the one that holds its old rows."""

    def __init__(self, checkpoint: Checkpoint, made_from: Mapping[str, str]) -> None:
        self.checkpoint, self.made_from = checkpoint, made_from
        self._read: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        from surgeon.checkpoint.reader import read

        name = self.made_from.get(name, name)
        if name not in self._read:
            self._read[name] = read(self.checkpoint.tensor(name))
        return self._read[name]

    def stored(self, name: str) -> StoredTensor:
        """Where the old rows of this matrix lie."""
        return self.checkpoint.tensor(self.made_from.get(name, name))

    def supplied(self, use: Use, **names: str) -> dict[str, Tensor]:
        wanted = registry.get("init", use.init).supplied
        return {word: self[name] for word, name in names.items() if word in wanted}
