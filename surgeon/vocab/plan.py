"""extend-vocab: new tokens, learned or given, with rows made from the old ones; old ids, rows and texts stay."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgeon import model_ref
from surgeon.arch.family import Family, family_of
from surgeon.checkpoint.commit import check_apart
from surgeon.checkpoint.digest import json_digest
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import Lineage, NewRow, RowMap, read_lineage
from surgeon.checkpoint.sidecars import sidecars
from surgeon.errors import SurgeonError, UsageError
from surgeon.ops.plan import DEFAULT_SHARD_BYTES, Copy, Input, OutTensor, Plan, Source, source_to_json
from surgeon.progress import SILENT, Progress
from surgeon.vocab.apart import check_inputs_apart
from surgeon.vocab.baked import check_baked
from surgeon.vocab.hull_file import HULL_FILE, encode_hull
from surgeon.vocab.kinds.bpe import BPEFile
from surgeon.vocab.named_elsewhere import check_appended, check_named
from surgeon.vocab.rows import head_name, is_tied, new_rows
from surgeon.vocab.settings import ExtendVocabSettings, check_settings, chosen_inits
from surgeon.vocab.texts import Encoded, Texts
from surgeon.vocab.tokenizer_files import TokenizerFiles, extend_files
from surgeon.vocab.tokenizer_json import TokenizerFile
from surgeon.vocab.tokens import NewTokens, old_pieces

if TYPE_CHECKING:
    from surgeon.vocab.learn import Learned


def plan_extend_vocab(settings: ExtendVocabSettings, progress: Progress = SILENT) -> Plan:
    """The plan of a model with more tokens.

    New ids follow the stored rows, or with `use_padding` the last id in use: then padding rows at these ids are
    replaced and count as new. All other rows keep their bytes. The matrix grows to hold the last new id, then to a
    multiple of `pad_to_multiple_of`; it never shrinks.
    """
    check_settings(settings)
    opened = open_model(settings)  # what is refused is refused before hours of learning
    reference, checkpoint, family = opened.reference, opened.checkpoint, opened.family
    old, old_rows, config, first = opened.tokenizer, opened.rows, opened.checkpoint.config, opened.first
    check_apart(settings.out, [reference.path])
    for names in (settings.corpus, settings.keep_corpus, settings.probe):
        Texts(names or [], settings).check()
    check_inputs_apart(settings)
    next(iter(Texts(settings.probe or [], settings)), None)  # one without a text is refused too
    for use in chosen_inits(settings):
        use.open()
    check_appended(reference.path, old, old_rows)
    learned = _learned(settings, old, progress)
    check_named(reference.path, old, first, len(learned.tokens))
    files = extend_files(reference.path, old, learned.tokens, learned.merges, first)
    learning = learned.to_json() | _origin(settings) | _reading(settings, reference.path, old, files, progress)
    ids = tuple(range(first, first + len(learned.tokens)))
    num_rows = _padded(max(old_rows, ids[-1] + 1), settings.pad_to_multiple_of)
    texts = Encoded(files.file, Texts(settings.corpus, settings)) if settings.corpus else None
    new = NewTokens(learned.tokens, ids, old_pieces(old, learned.tokens), (), texts)
    progress.say(_summary(learned))
    unknown = [token for token, pieces in zip(new.tokens, new.pieces, strict=True) if set(pieces) == {old.unknown_id}]
    if len(unknown) > 1:
        progress.say(
            f"{len(unknown):,} new tokens, as {unknown[0]!r}, are nothing but unknown to the old tokenizer: an init "
            "that starts from old pieces gives them all one row"
        )
    rows = new_rows(settings, checkpoint, family, old, new, num_rows, progress)
    hull = encode_hull(rows.given, ids)
    plain = settings.model_dump(mode="json", exclude={"model", "out", "seed"}, exclude_defaults=True)
    inits = chosen_inits(settings)
    row_map = RowMap(
        old=old_rows,
        rows=num_rows,
        new=[NewRow(id=i, token=t, pieces=list(p)) for i, t, p in zip(ids, new.tokens, new.pieces, strict=True)],
        method=inits[0].init,
        method_output=inits[1].init,
        weights=next(iter(rows.attachments), None),
        hull_weights=None if hull is None else HULL_FILE,
        project=settings.project,
        calibration=rows.calibration,
        learning=learning,
    )
    return Plan(
        operation="extend-vocab",
        settings=plain,
        seed=settings.seed,
        inputs=(Input("model", reference.path, checkpoint.digest, reference.name),),
        tensors=_tensors(checkpoint, family, rows.sources, num_rows),
        config=config | {"vocab_size": num_rows} | ({"tie_word_embeddings": False} if settings.untie else {}),
        lineage=Lineage(
            operation="extend-vocab",
            kind="surgery",
            settings=plain,
            seed=settings.seed,
            rows=row_map,
            initial={name: source_to_json(source) for name, source in rows.sources.items()},
        ),
        files=files.texts,
        binary=files.binary if hull is None else {**files.binary, HULL_FILE: hull},
        carried={name: "model" for name in sidecars(reference.path) if name not in files.names},
        attachments=rows.attachments,
        shard_bytes=settings.shard_bytes or DEFAULT_SHARD_BYTES,
    )


@dataclass(frozen=True)
class Opened:
    """A model that takes new tokens: rows of its matrices, and the first id of a new token."""

    reference: model_ref.ModelRef
    checkpoint: Checkpoint
    family: Family
    tokenizer: TokenizerFile
    rows: int
    first: int


def open_model(settings: ExtendVocabSettings) -> Opened:
    """Raises what plan_extend_vocab refuses of a model and its tokenizer, without its weights and the corpora."""
    reference = model_ref.resolve(settings.model)
    if reference.adapter is not None:
        raise UsageError(
            "a model with an adapter cannot be extended", settings.model, "fold it first: surgeon fold-adapter"
        )
    checkpoint = Checkpoint.open(reference.path)
    family = family_of(checkpoint)
    old = TokenizerFile.open(reference.path)
    rows = _num_rows(checkpoint, family, old)
    _check_size(checkpoint, rows)
    check_baked(old)
    if isinstance(old, BPEFile):
        old.check_bytes()
    first = old.next_id if settings.use_padding else rows
    check_named(reference.path, old, first, settings.add or 0)
    is_tied(family, settings)
    return Opened(reference, checkpoint, family, old, rows, first)


def _learned(settings: ExtendVocabSettings, old: TokenizerFile, progress: Progress) -> Learned:
    from surgeon.vocab.given import given_tokens, read_tokens
    from surgeon.vocab.given_pieces import given_pieces
    from surgeon.vocab.learn import learn
    from surgeon.vocab.tokens_of import tokens_of

    if settings.tokens_of is not None:
        other = model_ref.resolve(settings.tokens_of)
        _say_shared(other, old, progress)
        return tokens_of(old, TokenizerFile.open(other.path), other.name)
    if settings.tokens is not None:
        given = given_tokens if old.kind == "BPE" else given_pieces
        return given(old, read_tokens(settings.tokens), str(settings.tokens))
    assert settings.add is not None
    return learn(
        old,
        Texts(settings.corpus or [], settings),
        settings.add,
        min_count=settings.min_count,
        max_length=settings.max_length,
        script=settings.script,
        keep=Texts(settings.keep_corpus, settings) if settings.keep_corpus else None,
        stop_gain=settings.stop_gain,
        progress=progress,
    )


def _say_shared(other: model_ref.ModelRef, old: TokenizerFile, progress: Progress) -> None:
    """New tokens of the other model that are here already, where its lineage tells which it was given."""
    lineage = read_lineage(other.path)
    steps = list(lineage.chain()) if lineage is not None else []
    there = [row.token for s in steps if s.rows is not None for row in s.rows.new if row.token in old.vocab]
    if there:
        progress.say(f"{len(there):,} new tokens of {other.name}, as {there[0]!r}, are here already: their rows stay")


def _origin(settings: ExtendVocabSettings) -> dict[str, Any]:
    """The model that the tokens are of."""
    if settings.tokens_of is None:
        return {}
    other = model_ref.resolve(settings.tokens_of)
    return {"tokens_of": {"name": other.name, "tokenizer": json_digest(TokenizerFile.open(other.path).data)}}


def _reading(
    settings: ExtendVocabSettings, folder: Path, old: TokenizerFile, files: TokenizerFiles, progress: Progress
) -> dict[str, Any]:
    """What the lineage remembers of how old text and the new files are read; the notes are said at once."""
    from surgeon.vocab.identity import identical_texts
    from surgeon.vocab.loads import load_notes

    found: dict[str, Any] = {"promise": old.promise, "notes": load_notes(folder, old, files)}
    if settings.keep_corpus:
        found["keep"] = identical_texts(old, files.file, Texts(settings.keep_corpus, settings))
    for note in found["notes"]:
        progress.say(f"note: {note}")
    return found


def _summary(learned: Learned) -> str:
    parts = [f"{len(learned.tokens):,} new tokens"]
    if learned.num_characters:
        parts.append(f"{learned.num_characters:,} of them characters that no token wrote before")
    if learned.helpers:
        parts.append(f"{len(learned.helpers):,} of them only steps of merging towards given ones")
    if learned.left_out:
        parts.append(
            f"{len(learned.left_out):,} left out, which the merges here take apart, as {learned.left_out[0]!r}"
        )
    return ", ".join(parts)


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


def _tensors(
    checkpoint: Checkpoint, family: Family, sources: dict[str, Source], num_rows: int
) -> tuple[OutTensor, ...]:
    found = tuple(_tensor(checkpoint, name, sources, num_rows) for name in checkpoint.tensors)
    head = head_name(family)
    if head not in sources or head in checkpoint.tensors:
        return found
    stored = checkpoint.tensor(family.embedding)  # the head that was untied
    return (*found, OutTensor(head, stored.dtype, (num_rows, *stored.shape[1:]), sources[head]))


def _tensor(checkpoint: Checkpoint, name: str, sources: dict[str, Source], num_rows: int) -> OutTensor:
    stored = checkpoint.tensor(name)
    if name not in sources:
        return OutTensor(name, stored.dtype, stored.shape, Copy("model", name))
    return OutTensor(name, stored.dtype, (num_rows, *stored.shape[1:]), sources[name])


def _check_size(checkpoint: Checkpoint, old_rows: int) -> None:
    config = checkpoint.config
    if config.get("vocab_size") != old_rows:
        raise SurgeonError(
            f"config.json says vocab_size {config.get('vocab_size')}, the embedding has {old_rows} rows",
            str(checkpoint.path / "config.json"),
            "restore config.json and the weights from one revision",
        )
