"""Tokens of another model behind those of the target: the tokenizer's files, the config, and what the lineage says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from surgeon.checkpoint.lineage import NewRow, RowMap
from surgeon.merge.align import Alignment
from surgeon.merge.ancestry import Member
from surgeon.merge.chat_templates import TOKENIZER_CONFIG
from surgeon.merge.pieces import joined
from surgeon.merge.special_tokens import Special
from surgeon.ops.plan import Apply, Copy, Piece, source_to_json
from surgeon.vocab.baked import at_their_ids
from surgeon.vocab.json_text import read_json_text
from surgeon.vocab.tokenizer_json import TOKENIZER_JSON, TokenizerFile


@dataclass
class AddedRows:
    """files: texts to write. config: keys to change. rows, initial: of the lineage. tables: to attach."""

    files: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    rows: RowMap | None = None
    initial: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, bytes] = field(default_factory=dict)


def added_rows(alignment: Alignment, special: Special, names: Mapping[str, str]) -> AddedRows:
    """What has to be written where the output has tokens that the target lacks; names: file -> its text so far."""
    out = AddedRows()
    if not special.added:
        return out
    target = alignment.target
    file = TokenizerFile.open(target.checkpoint.path)
    entries = [*file.added]
    decoder: dict[str, Any] = {}
    described: dict[str, dict[str, dict[str, Any]]] = {}
    for content, (i, member) in sorted(special.added.items(), key=lambda item: item[1][0]):
        if member.digest not in described:
            described[member.digest] = _entries(member)
        entry = described[member.digest][content]
        entries.append(entry | {"id": i})
        decoder[str(i)] = {k: v for k, v in entry.items() if k != "id"}
    out.files[TOKENIZER_JSON] = at_their_ids(replace(file, data=file.data | {"added_tokens": entries})).text()
    path = target.checkpoint.path / TOKENIZER_CONFIG
    if path.is_file():
        held, layout = read_json_text(path)
        if TOKENIZER_CONFIG in names:
            import json

            held = json.loads(names[TOKENIZER_CONFIG])
        if "added_tokens_decoder" in held:
            held["added_tokens_decoder"] = held["added_tokens_decoder"] | decoder
        out.files[TOKENIZER_CONFIG] = layout.dump(held)
    assert special.rows is not None
    _with_rows(out, alignment, special, special.rows)
    return out


def _entries(member: Member) -> dict[str, dict[str, Any]]:
    """The added tokens as the tokenizer.json of their model describes them, by their contents."""
    added = TokenizerFile.open(member.checkpoint.path).added
    return {token["content"]: dict(token) for token in reversed(added)}  # of two alike the first


def _with_rows(out: AddedRows, alignment: Alignment, special: Special, rows: int) -> None:
    """The new rows as a step of the lineage: stored, as they depend on another model than the first parent."""
    import torch
    from safetensors.torch import save

    from surgeon.checkpoint.reader import read

    target = alignment.target.checkpoint
    embedding = alignment.family.embedding
    held = target.tensor(embedding).shape[0]
    behind = sorted((i, content, member) for content, (i, member) in special.added.items())
    out.config["vocab_size"] = rows
    out.rows = RowMap(
        old=min(i for i, _, _ in behind),
        rows=rows,
        new=[NewRow(id=i, token=content, pieces=[]) for i, content, _ in behind],
        method="taken",
        method_output="taken",
    )
    name = f"taken-{alignment.target.digest.removeprefix('sha256:')[:12]}.safetensors"
    table: dict[str, torch.Tensor] = {}
    shifts = {i: t.shift for t in special.taken for start, stop in t.ids for i in range(start, stop)}
    for tensor in target.tensors:
        if not alignment.is_vocabulary(tensor):
            continue
        found = []
        for i, _, member in behind:
            tensors = member.checkpoint.tensors
            own = tensors[tensor if tensor in tensors else embedding]
            found.append(read(own, (i + shifts[i], i + shifts[i] + 1)))
        table[f"{tensor}.rows"] = torch.cat(found)
        ids = tuple((i, i + 1) for i, _, _ in behind)
        old = tuple(run for run in _rest(held, ids) if run[0] < run[1])
        new = Apply("kernel:stored", (), {"matrix": tensor}, name)
        out.initial[tensor] = source_to_json(joined([Piece(old, Copy("model", tensor)), Piece(ids, new)]))
    out.tables[name] = save(table)


def _rest(num: int, ids: tuple[tuple[int, int], ...]) -> list[tuple[int, int]]:
    found, at = [], 0
    for start, stop in ids:
        found.append((at, min(start, num)))
        at = stop
    return [*found, (at, num)]
