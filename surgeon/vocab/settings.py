"""The options of extend-vocab, and which of them need each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from surgeon import registry
from surgeon.data.numbers import Count
from surgeon.errors import UsageError
from surgeon.loading import Device

WEIGHTED, FITTED, ADOPTED = "weighted_pieces", "distill_hull", "adopt"
BUDGET = 0.02  # nats an old token may lose, where a probe text measures it


class ExtendVocabSettings(BaseModel):
    """The options of `surgeon extend-vocab`.

    corpus with add: how many tokens to learn from which texts. tokens: a file of given tokens instead, tokens_of: a
    model whose tokens this one gets (a corpus is then only read by inits that ask for one). script, keep_corpus,
    min_count, max_length, stop_gain: what may be learned (surgeon.vocab.learn). init, init_output: of the embedding
    and of the output matrix; option, option_output: theirs (option_output None: option where the init is the same);
    `chosen_inits` has the defaults. project: what is not convex is brought to the nearest convex combination. probe,
    old_loss_budget: old text, and how many nats a token of it may lose to the new output rows. untie: input and output
    rows of a tied model become two matrices, as large as the embedding each.
    text_field, lines: how the corpora are read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="A local folder, or org/name[@revision] of the hub.")
    out: Path = Field(description="The folder to write; it must not exist yet.")
    corpus: list[str] | None = Field(None, description="A corpus to learn tokens from, NAME=PATH; repeatable.")
    add: Count | None = Field(None, gt=0, description="How many tokens to learn.")
    tokens: Path | None = Field(
        None, description="A file of given tokens, one a line (a leading space is part of it), instead of learning."
    )
    tokens_of: str | None = Field(
        None,
        description="A model that was extended separately: its tokens, and its rows for them, instead of learning.",
    )
    script: str | None = Field(
        None,
        description="Learned tokens are of this script: Tamil, Greek, ...; of one of several: Tamil,Greek; or auto.",
    )
    keep_corpus: list[str] | None = Field(None, description="Text that must encode exactly as before; repeatable.")
    min_count: int = Field(2, gt=0, description="How often a pair must occur to become a token.")
    max_length: int | None = Field(None, gt=0, description="The most characters of a new token.")
    stop_gain: float | None = Field(
        None, gt=0, lt=100, description="Stop when the next 1,000 tokens save less than this per cent of the text's."
    )
    init: str | None = Field(
        None,
        description="What new input rows start as (`surgeon methods init`) [with a corpus and a probe distill_hull, "
        "which trains them; with --tokens-of adopt, which takes that model's; else, or where --init-output alone is "
        "given, weighted_pieces].",
    )
    init_output: str | None = Field(None, description="The same for the output matrix [as --init].")
    option: dict[str, Any] = Field(default_factory=dict, description="A keyword of the init; repeatable.")
    option_output: dict[str, Any] | None = Field(None, description="A keyword of the output init; repeatable.")
    project: Literal["hull"] | None = Field(
        None, description="hull: rows that are not convex become the nearest convex combination of old rows."
    )
    probe: list[str] | None = Field(None, description="Old text that measures what the new rows cost it; repeatable.")
    old_loss_budget: float | None = Field(
        None, gt=0, description=f"Nats a token that the probe may lose [{BUDGET} by default, and with distill_hull]."
    )
    untie: bool = Field(
        False, description="The head becomes a matrix of its own: a copy of the old rows, and new rows for it."
    )
    use_padding: bool = Field(False, description="New ids take the padding rows behind the last token first.")
    pad_to_multiple_of: int | None = Field(None, gt=0, description="Add padding rows up to a multiple of this.")
    text_field: str = Field("text", description="The field of .jsonl and .parquet records.")
    lines: bool = Field(False, description="A .txt file holds a document a line.")
    device: Device = Field("auto", description="Where a model runs that an init or the probe asks for.")
    seed: int = Field(0, description="Seed of what is drawn.")
    shard_bytes: Count | None = Field(None, gt=0, description="The size that a shard does not exceed.")


class Use(NamedTuple):
    """An init with its options, as one matrix uses it."""

    init: str
    options: dict[str, Any]

    def open(self) -> None:
        """Raise what is raised by a file or a model of the options that is not there or not what it should be: the
        module of an init names in OPENS what opens each of these."""
        method = registry.get("init", self.init)
        given = method.bind(self.options)
        for name, opens in method.trait("OPENS", {}).items():
            if given.get(name) is not None:
                opens(given[name])


def chosen_inits(settings: ExtendVocabSettings) -> tuple[Use, Use]:
    """What the input and the output matrix start from.

    Nothing chosen: with the tokens of a model its rows for them (adopt); where a corpus and a probe are given, rows
    distilled and fitted to the corpus under the budget of the probe (surgeon.vocab.inits.distill_hull); else weighted
    means of the old pieces (weighted_pieces). The first or the last are the input rows too where the output init alone
    is chosen. An init that wants a donor and is given none takes the model of the tokens. With a budget more of the
    mean is mixed into output rows until old text loses no more than that.
    """
    first, last = _uses(settings)
    return _with_donor(first, settings.tokens_of), _with_donor(last, settings.tokens_of)


def _uses(settings: ExtendVocabSettings) -> tuple[Use, Use]:
    if settings.init is None and (settings.option or (settings.init_output is None and settings.option_output)):
        raise UsageError("an option of an init that is not named", "--option", "name it with --init")
    plain = WEIGHTED if settings.tokens_of is None else ADOPTED
    if settings.init is not None or settings.init_output is not None:
        first = Use(settings.init or plain, settings.option)
        if settings.init_output is None:
            return first, Use(
                first.init, settings.option if settings.option_output is None else settings.option_output
            )
        same = settings.init_output == first.init and settings.option_output is None
        return first, Use(settings.init_output, settings.option if same else settings.option_output or {})
    fitted = settings.tokens_of is None and settings.corpus and settings.probe
    default = Use(FITTED if fitted else plain, {})
    return default, default


def _with_donor(use: Use, model: str | None) -> Use:
    wants = model is not None and "donor" in registry.get("init", use.init).options and "donor" not in use.options
    return Use(use.init, use.options | {"donor": model}) if wants else use


def budget(settings: ExtendVocabSettings) -> float | None:
    """Nats a token that old text may lose, or None where nothing is calibrated."""
    if settings.old_loss_budget is not None:
        return settings.old_loss_budget
    if not settings.probe:
        return None
    named = not (settings.init is None and settings.init_output is None and settings.tokens_of is None)
    return BUDGET if not named or any(map(_reads_probe, chosen_inits(settings))) else None


def _reads_probe(use: Use) -> bool:
    return bool(registry.get("init", use.init).trait("READS_PROBE", False))


def check_settings(settings: ExtendVocabSettings) -> None:
    """Refuse words that contradict each other, before anything is read."""
    ways = {"--add": settings.add, "--tokens": settings.tokens, "--tokens-of": settings.tokens_of}
    found = [flag for flag, value in ways.items() if value is not None]
    if len(found) != 1:
        raise UsageError(
            "one of --add, --tokens and --tokens-of is needed",
            " and ".join(found) or "--add",
            "--corpus CORPUS --add N, or --tokens FILE, or --tokens-of MODEL",
        )
    if settings.add is not None and not settings.corpus:
        raise UsageError("new tokens are learned from a corpus", "--add", "add --corpus CORPUS")
    if settings.add is None:
        for name in ("script", "keep_corpus", "min_count", "stop_gain", "max_length"):
            if getattr(settings, name) != type(settings).model_fields[name].default:
                flag = f"--{name.replace('_', '-')}"
                raise UsageError(f"{flag} is for tokens that are learned", found[0], f"leave out {flag}")
    if settings.old_loss_budget is not None and not settings.probe:
        raise UsageError("a budget needs old text to be measured on", "--old-loss-budget", "add --probe CORPUS")
    for use in chosen_inits(settings):
        method = registry.get("init", use.init)
        method.bind(use.options)
        if method.trait("READS_TEXT", False) and not settings.corpus:
            raise UsageError(f"the init {use.init!r} reads the target text", "--corpus", "add --corpus CORPUS")
        if _reads_probe(use) and not settings.probe:
            raise UsageError(f"the init {use.init!r} holds old text to a budget", "--probe", "add --probe CORPUS")
    last = chosen_inits(settings)[1]
    dense = registry.get("init", last.init).trait("HULL", None) is False and not _reads_probe(last)
    if settings.old_loss_budget is not None and settings.project is None and dense:
        raise UsageError("only convex rows can be mixed to keep a budget", "--old-loss-budget", "add --project hull")
