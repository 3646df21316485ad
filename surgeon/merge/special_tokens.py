"""Special and chat tokens that one model alone has trained: its rows are taken whole, not by the weight of its delta.

Half of the row of an end-of-turn token is no token. A row counts as trained where it is not what it was at
initialisation; a token that the target lacks altogether gets a row behind its last one. Tokens that the base itself
uses (what begins and ends its documents, what stands for the unknown) are merged like all others: their rows meant
something before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from surgeon.checkpoint.config_json import read_json_object
from surgeon.checkpoint.index import Checkpoint
from surgeon.merge.align import Alignment, Taken
from surgeon.merge.ancestry import Member
from surgeon.merge.chat_templates import TOKENIZER_CONFIG, chat_templates
from surgeon.merge.graded import Graded
from surgeon.merge.row_values import RowValues
from surgeon.merge.vocabulary import Vocabulary, same_files, vocabulary_of

_TOLD = 12  # tokens of one model by their names


@dataclass(frozen=True)
class Special:
    """taken: rows of the output that come whole from a model. added: content -> (id, the model that it is from) of
    tokens that the target lacks. names: content -> name of the model, of all of them. rows: of the output."""

    taken: tuple[Taken, ...] = ()
    added: Mapping[str, tuple[int, Member]] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    rows: int | None = None

    def lines(self) -> list[str]:
        """What a person is told: a line a token, or one for all of a model where these are many."""
        groups: dict[tuple[str, str], list[str]] = {}
        for content, name in self.names.items():
            how = "added, as" if content in self.added else "taken as"
            groups.setdefault((how, name), []).append(content)
        lines: list[str] = []
        for (how, name), held in groups.items():
            if len(held) <= _TOLD:
                lines += [f"the token {content} is {how} it is in {name}" for content in held]
            else:
                lines.append(f"{len(held):,} tokens, {held[0]} to {held[-1]}, are {how} they are in {name}")
        return lines


def special_tokens(
    alignment: Alignment, weighted: Sequence[tuple[Member, Graded]], inputs: Mapping[str, Checkpoint]
) -> Special:
    """Which rows are taken from whom."""
    target = alignment.target
    known = vocabulary_of(target.checkpoint)
    if known is None:
        return Special()
    held = [member for member, weight in weighted if any(weight.values) or any(map(any, weight.parts.values()))]
    alone = len({m.digest for m in [*held, target]} - {alignment.base.digest}) < 2
    taken: list[Taken] = []
    added: dict[str, tuple[int, Member]] = {}
    names: dict[str, str] = {}
    values = RowValues(alignment, inputs)
    used = _used_by(alignment.base)
    next_id = max(known.keys, default=-1) + 1
    for member, weight in weighted:
        if member.digest == target.digest or member not in held or not weight.adds:
            continue
        own = known if same_files(member.checkpoint.path, target.checkpoint.path) else vocabulary_of(member.checkpoint)
        if own is None:
            continue
        chat, refined = _chat_tokens(member, own), known.refined_by(own)  # the latter looks at the whole vocabulary
        for i, content in sorted(chat.items()):
            at = i if refined else known.ids.get(own.keys[i])
            if content in used:
                continue
            if at is None:
                if content not in added:
                    at, next_id = next_id, next_id + 1
                    added[content] = (at, member)
                else:
                    continue  # another model has it too: of the first, in the order of their digests
            elif alone or not values.only_trained_by(member, i, at, held):
                continue
            taken.append(Taken(member, ((at, at + 1),), i - at))
            names[content] = member.name
    rows = max(known.rows, next_id) if added else None
    return Special(tuple(taken), added, names, rows)


def _chat_tokens(member: Member, own: Vocabulary) -> dict[int, str]:
    """Id -> content of added tokens that are special, or that a chat template speaks of."""
    template = "\n".join(chat_templates(member.checkpoint).values())
    special = {i for i, key in own.keys.items() if key.startswith(b"\0special ")}
    new = {row.id for step in member.steps if step.rows is not None for row in step.rows.new}
    return {i: c for i, c in own.added.items() if i not in new and (i in special or c in template)}


def _used_by(base: Member) -> set[str]:
    """Contents of the tokens with which the base was trained to begin and end, and of the unknown one."""
    own = vocabulary_of(base.checkpoint)
    if own is None:
        return set()
    ids = [base.checkpoint.config.get(key) for key in ("bos_token_id", "eos_token_id", "decoder_start_token_id")]
    flat = [i for entry in ids for i in (entry if isinstance(entry, list) else [entry])]
    path = base.checkpoint.path / TOKENIZER_CONFIG
    held = read_json_object(path) if path.is_file() else {}
    told = [held.get(key) for key in ("bos_token", "eos_token", "unk_token")]
    names = [entry.get("content") if isinstance(entry, dict) else entry for entry in told]
    return {own.added[i] for i in flat if isinstance(i, int) and i in own.added} | {
        name for name in names if isinstance(name, str)
    }
