"""extend-vocab: new tokens, learned or given, with rows made from the old ones; old ids, rows and texts stay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from surgeon import model_ref, registry
from surgeon.arch.family import Family, family_of
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import Lineage, NewRow, RowMap
from surgeon.checkpoint.sidecars import sidecars
from surgeon.data.numbers import Count
from surgeon.errors import SurgeonError, UsageError
from surgeon.ops.plan import DEFAULT_SHARD_BYTES, Copy, Input, OutTensor, Plan, Source, source_to_json
from surgeon.progress import SILENT, Progress
from surgeon.vocab.matrix import Tables, attached, matrix_source, mean_rows, run_init
from surgeon.vocab.tokenizer_files import extend_files
from surgeon.vocab.tokenizer_json import TokenizerFile
from surgeon.vocab.tokens import NewTokens, old_pieces
from surgeon.vocab.usable import usable_ids

if TYPE_CHECKING:
    from surgeon.vocab.learn import Learned


class ExtendVocabSettings(BaseModel):
    """The options of `surgeon extend-vocab`.

    corpus with add: how many tokens to learn from which texts. tokens: a file of given tokens instead (a corpus is
    then only read by inits that ask for one). init, init_output: of the embedding and of the output matrix (None: the
    same); option, option_output: theirs (option_output None: option where the init is the same). min_count,
    max_length: see surgeon.vocab.learn. text_field, lines: how the corpora are read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="A local folder, or org/name[@revision] of the hub.")
    out: Path = Field(description="The folder to write; it must not exist yet.")
    corpus: list[str] | None = Field(None, description="A corpus to learn tokens from, NAME=PATH; repeatable.")
    add: Count | None = Field(None, gt=0, description="How many tokens to learn.")
    tokens: Path | None = Field(None, description="A file of given tokens, one a line, instead of learning.")
    init: str = Field("subword_mean", description="What new input rows start as (`surgeon methods init`).")
    init_output: str | None = Field(None, description="The same for the output matrix [as --init].")
    option: dict[str, Any] = Field(default_factory=dict, description="A keyword of the init; repeatable.")
    option_output: dict[str, Any] | None = Field(None, description="A keyword of the output init; repeatable.")
    pad_to_multiple_of: int | None = Field(None, gt=0, description="Add padding rows up to a multiple of this.")
    min_count: int = Field(2, gt=0, description="How often a pair must occur to become a token.")
    max_length: int | None = Field(None, gt=0, description="The most characters of a new token.")
    text_field: str = Field("text", description="The field of .jsonl and .parquet records.")
    lines: bool = Field(False, description="A .txt file holds a document a line.")
    seed: int = Field(0, description="Seed of what is drawn.")
    shard_bytes: Count | None = Field(None, gt=0, description="The size that a shard does not exceed.")


def plan_extend_vocab(settings: ExtendVocabSettings, progress: Progress = SILENT) -> Plan:
    """The plan of a model with more tokens.

    New ids follow the last id in use. Rows that a padded matrix holds there already are replaced and count as new;
    all rows of ids in use keep their bytes, and so does padding behind the new ids. The matrix grows to hold the last
    new id, then to a multiple of `pad_to_multiple_of`; it never shrinks.
    """
    _check_words(settings)
    reference = model_ref.resolve(settings.model)
    if reference.adapter is not None:
        raise UsageError(
            "a model with an adapter cannot be extended", settings.model, "fold it first: surgeon fold-adapter"
        )
    checkpoint = Checkpoint.open(reference.path)
    family = family_of(checkpoint)
    old = TokenizerFile.open(reference.path)
    old_rows = _num_rows(checkpoint, family, old)
    learned = _learned(settings, old, progress)
    files = extend_files(reference.path, old, learned.tokens, learned.merges)
    ids = tuple(range(old.next_id, old.next_id + len(learned.tokens)))
    num_rows = _padded(max(old_rows, ids[-1] + 1), settings.pad_to_multiple_of)
    texts = _Sequences(files.file, _Texts(settings)) if settings.corpus else None
    new = NewTokens(learned.tokens, ids, old_pieces(old, learned.tokens), (), texts)
    progress.say(_summary(learned))
    sources, attachments = _sources(settings, checkpoint, family, old, new, num_rows)
    plain = settings.model_dump(mode="json", exclude={"model", "out", "seed"}, exclude_defaults=True)
    rows = RowMap(
        old=old_rows,
        rows=num_rows,
        new=[NewRow(id=i, token=t, pieces=list(p)) for i, t, p in zip(ids, new.tokens, new.pieces, strict=True)],
        method=settings.init,
        method_output=settings.init_output or settings.init,
        weights=next(iter(attachments), None),
    )
    written = {*files.texts, *files.binary}
    return Plan(
        operation="extend-vocab",
        settings=plain,
        seed=settings.seed,
        inputs=(Input("model", reference.path, checkpoint.digest, reference.name),),
        tensors=tuple(_tensor(checkpoint, name, sources, num_rows) for name in checkpoint.tensors),
        config=_config(checkpoint, old_rows, num_rows),
        lineage=Lineage(
            operation="extend-vocab",
            kind="surgery",
            settings=plain,
            seed=settings.seed,
            rows=rows,
            initial={name: source_to_json(source) for name, source in sources.items()},
        ),
        files=files.texts,
        binary=files.binary,
        carried={name: "model" for name in sidecars(reference.path) if name not in written},
        attachments=attachments,
        shard_bytes=settings.shard_bytes or DEFAULT_SHARD_BYTES,
    )


def _check_words(settings: ExtendVocabSettings) -> None:
    if (settings.add is None) == (settings.tokens is None):
        raise UsageError("one of --add and --tokens is needed", "--add", "--corpus CORPUS --add N, or --tokens FILE")
    if settings.add is not None and not settings.corpus:
        raise UsageError("new tokens are learned from a corpus", "--add", "add --corpus CORPUS")
    for name, options in ((settings.init, settings.option), (_output_init(settings), _output_option(settings))):
        method = registry.get("init", name)
        method.bind(options)
        if method.trait("READS_TEXT", False) and not settings.corpus:
            raise UsageError(f"the init {name!r} reads the target text", "--corpus", "add --corpus CORPUS")


def _output_init(settings: ExtendVocabSettings) -> str:
    return settings.init_output or settings.init


def _output_option(settings: ExtendVocabSettings) -> dict[str, Any]:
    if settings.option_output is not None:
        return settings.option_output
    return settings.option if _output_init(settings) == settings.init else {}


def _learned(settings: ExtendVocabSettings, old: TokenizerFile, progress: Progress) -> Learned:
    from surgeon.vocab.given import given_tokens, read_tokens
    from surgeon.vocab.learn import learn

    if settings.tokens is not None:
        return given_tokens(old, read_tokens(settings.tokens), str(settings.tokens))
    assert settings.add is not None
    return learn(
        old,
        _Texts(settings),
        settings.add,
        min_count=settings.min_count,
        max_length=settings.max_length,
        progress=progress,
    )


def _summary(learned: Learned) -> str:
    parts = [f"{len(learned.tokens):,} new tokens"]
    if learned.num_characters:
        parts.append(f"{learned.num_characters:,} of them characters that were bytes before")
    if learned.helpers:
        parts.append(f"{len(learned.helpers):,} of them only steps of merging towards given ones")
    return ", ".join(parts)


class _Texts:
    """The texts of the corpora, from the start each time they are iterated."""

    def __init__(self, settings: ExtendVocabSettings) -> None:
        self.settings = settings

    def __iter__(self) -> Iterator[str]:
        from surgeon.data.source import documents, parse_corpus

        how = self.settings
        for name in how.corpus or []:
            corpus = parse_corpus(name, text_field=how.text_field, lines=how.lines, weighted=False)
            for document in documents(corpus):
                yield from [document.text] if document.text is not None else [m["content"] for m in document.messages]


class _Sequences:
    """The texts as ids of the new tokenizer."""

    def __init__(self, file: TokenizerFile, texts: _Texts) -> None:
        self.file, self.texts = file, texts

    def __call__(self) -> Iterator[list[int]]:
        tokenizer = self.file.load()
        for text in self.texts:
            yield tokenizer.encode(text, add_special_tokens=False).ids


def _num_rows(checkpoint: Checkpoint, family: Family, old: TokenizerFile) -> int:
    rows = checkpoint.tensor(family.embedding).shape[0]
    if rows < old.next_id:
        raise SurgeonError(
            f"the tokenizer uses ids up to {old.next_id - 1}, the embedding has {rows} rows",
            str(checkpoint.path),
            "give a tokenizer and a model that belong together",
        )
    return rows


def _padded(rows: int, multiple: int | None) -> int:
    return rows if multiple is None else -(-rows // multiple) * multiple


def _sources(
    settings: ExtendVocabSettings,
    checkpoint: Checkpoint,
    family: Family,
    old: TokenizerFile,
    new: NewTokens,
    num_rows: int,
) -> tuple[dict[str, Source], dict[str, bytes]]:
    """The sources of the tensors that have a row a token, and the attachment they read."""
    from surgeon.checkpoint.reader import read
    from surgeon.ops.evaluate import tensor_seed
    from surgeon.vocab.hull import Combination

    untied = family.head is not None and not family.tied
    head = family.head if untied and family.head is not None else family.embedding
    uses = [("input", family.embedding, settings.init, settings.option)]
    if untied:
        uses.append(("output", head, _output_init(settings), _output_option(settings)))
    tables = Tables()
    found: dict[str, Source] = {}
    given: Any = None
    for role, name, init, options in uses:
        stored = checkpoint.tensor(name)
        new = replace(new, usable=usable_ids(old, stored))
        supplied = registry.get("init", init).supplied
        # pair_seed is the same for both matrices: for an init that trains them together
        seeds = {"seed": tensor_seed(settings.seed, name), "pair_seed": settings.seed}
        supply: dict[str, Any] = {"new": new, "role": role, **seeds}
        matrices = {"embed_VD": name, "input_VD": family.embedding, "output_VD": head}
        read_once = {t: read(checkpoint.tensor(t)) for t in {t: None for w, t in matrices.items() if w in supplied}}
        supply |= {word: read_once[t] for word, t in matrices.items() if word in supplied}
        given = run_init(init, options, supply, stored.shape[0])
        found[name] = matrix_source(stored, new, given, num_rows, tables, role)
    if family.tied and family.head is not None:  # the same matrix stored twice
        found[family.head] = found[family.embedding]
    if family.head_bias is not None:  # mixed as the rows are; where they are no mixture, the mean bias
        mixture = given if isinstance(given, Combination) else mean_rows(new, len(new))
        found[family.head_bias] = matrix_source(
            checkpoint.tensor(family.head_bias), new, mixture, num_rows, tables, "output_bias"
        )
    name, raw = tables.encode()
    return {tensor: attached(source, name) for tensor, source in found.items()}, {name: raw}


def _tensor(checkpoint: Checkpoint, name: str, sources: dict[str, Source], num_rows: int) -> OutTensor:
    stored = checkpoint.tensor(name)
    if name not in sources:
        return OutTensor(name, stored.dtype, stored.shape, Copy("model", name))
    return OutTensor(name, stored.dtype, (num_rows, *stored.shape[1:]), sources[name])


def _config(checkpoint: Checkpoint, old_rows: int, num_rows: int) -> dict[str, Any]:
    config = checkpoint.config
    if config.get("vocab_size") != old_rows:
        raise SurgeonError(
            f"config.json says vocab_size {config.get('vocab_size')}, the embedding has {old_rows} rows",
            str(checkpoint.path / "config.json"),
            "restore config.json and the weights from one revision",
        )
    return config | {"vocab_size": num_rows}
