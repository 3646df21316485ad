"""What makes a model answer and stop - chat template, generation config, special tokens - in the files of the output.

They follow the model that changed them: a merged model with the instruct model's weights and the base's
end-of-sequence id never stops.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from surgeon.checkpoint.config_json import dump_json, read_json_object
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.sidecars import FOREIGN_TOKENIZERS, TOKENIZER_FILES
from surgeon.errors import SurgeonError
from surgeon.merge.ancestry import Member
from surgeon.merge.chat_templates import TEMPLATE, TOKENIZER_CONFIG, chat_templates, file_of
from surgeon.merge.three_way import Voices
from surgeon.merge.vocabulary import same_files, vocabulary_of
from surgeon.vocab.json_text import read_json_text

GENERATION = "generation_config.json"
SPECIAL_MAP = "special_tokens_map.json"
IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
TOKENS = ("bos_token", "eos_token", "pad_token")
IdMap = Callable[[int], int]


@dataclass
class ChatFiles:
    """config: keys of config.json that change. files: texts to write. carried: file -> the role it is copied from.
    dropped: files of the target that the output does not have. origin: what was not the target's -> name of the model
    it is from."""

    config: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    carried: dict[str, str] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    origin: dict[str, str] = field(default_factory=dict)


def chat_files(voices: Voices, added: Mapping[str, int]) -> ChatFiles:
    """added: content -> id of tokens that the output has and the target lacks. Raises SurgeonError where two models
    contradict each other, or a token that is needed is not there."""
    out = ChatFiles()
    named = voices.who("vocabulary files", _refined(voices))
    if named is not None:
        files = named.checkpoint.path
        names = [n for n in (*TOKENIZER_FILES, *FOREIGN_TOKENIZERS) if n != TEMPLATE]
        out.carried |= {n: named.role for n in names if (files / n).is_file()}
        out.dropped = FOREIGN_TOKENIZERS
        out.origin["tokenizer"] = named.name
    who = voices.who("chat templates", lambda m: chat_templates(m.checkpoint) or None)
    if who is not None:
        _take_templates(out, who, voices.target)
    elif TOKENIZER_CONFIG in out.carried:  # the target's own may lie in the file that another takes the place of
        held = {file_of(n): text for n, text in chat_templates(voices.target.checkpoint).items()}
        out.files |= {n: text for n, text in held.items() if not (voices.target.checkpoint.path / n).is_file()}
    who = voices.who("generation configs", lambda m: _generation(m.checkpoint))
    if who is not None:
        out.origin[GENERATION] = who.name
        held = read_json_object(who.checkpoint.path / GENERATION)
        moved = held | _with_ids({k: held[k] for k in IDS if k in held}, id_map(who, voices.target, added))
        if moved == held:
            out.carried[GENERATION] = who.role
        else:
            out.files[GENERATION] = dump_json(moved)
    for key in IDS:
        who = voices.who(f"{key} in config.json", lambda m, key=key: m.checkpoint.config.get(key))  # type: ignore[misc]
        if who is not None:
            value = who.checkpoint.config[key]
            out.config |= _with_ids({key: value}, id_map(who, voices.target, added))
            out.origin[f"config.json: {key}"] = who.name
    for name in (TOKENIZER_CONFIG, SPECIAL_MAP):
        of = named if name in out.carried and named is not None else voices.target
        if not (of.checkpoint.path / name).is_file():
            continue
        held, layout = read_json_text(of.checkpoint.path / name)
        changes = _token_names(voices, name, held, of, out.origin)
        apart = TEMPLATE in out.origin or any(
            file_of(n) in out.files for n in chat_templates(voices.target.checkpoint)
        )
        if changes or (apart and "chat_template" in held):
            out.carried.pop(name, None)
            kept = {k: v for k, v in held.items() if k != "chat_template" or not apart}
            out.files[name] = layout.dump(kept | changes)
    return out


def id_map(member: Member, target: Member, added: Mapping[str, int]) -> IdMap:
    """From ids of a model to ids of the output."""
    if same_files(member.checkpoint.path, target.checkpoint.path):
        return lambda i: i
    own, known = vocabulary_of(member.checkpoint), vocabulary_of(target.checkpoint)
    if own is None or known is None or known.refined_by(own):
        return lambda i: i

    def mapped(i: int) -> int:
        content = own.added.get(i, "")
        found = added.get(content, known.ids.get(own.keys.get(i, b"")))
        if found is None:
            raise SurgeonError(
                f"{member.name} ends or pads with the token {content or i!r}, which {target.name} lacks",
                str(member.checkpoint.path),
                f"--chat {target.name} keeps that one's ids",
            )
        return found

    return mapped


def _take_templates(out: ChatFiles, who: Member, target: Member) -> None:
    """All of them: those of two models are not to be had by one name or another."""
    out.origin[TEMPLATE] = who.name
    out.dropped += tuple(file_of(name) for name in chat_templates(target.checkpoint))
    for name, text in chat_templates(who.checkpoint).items():
        if (who.checkpoint.path / file_of(name)).is_file():
            out.carried[file_of(name)] = who.role
        else:
            out.files[file_of(name)] = text


def _generation(checkpoint: Checkpoint) -> dict[str, Any] | None:
    path = checkpoint.path / GENERATION
    if not path.is_file():
        return None
    return {k: v for k, v in read_json_object(path).items() if k not in ("transformers_version", "_from_model_config")}


def _refined(voices: Voices) -> Callable[[Member], Any]:
    """Reads the tokenizer of a model that gave names to rows which the target has without a name."""

    def read(member: Member) -> Any:
        path = member.checkpoint.path
        if same_files(path, voices.target.checkpoint.path):
            return "as the target"
        own, known = vocabulary_of(member.checkpoint), vocabulary_of(voices.target.checkpoint)
        if own is None or known is None or not known.refined_by(own):
            return None
        if own.keys == known.keys:
            return "as the target"
        return str(sorted(own.keys.items()))

    return read


def _token_names(
    voices: Voices, name: str, held: Mapping[str, Any], of: Member, origin: dict[str, str]
) -> dict[str, Any]:
    """Names of the special tokens that are not those of this file as it is in the model `of`."""
    changes: dict[str, Any] = {}
    for key in TOKENS:

        def read(member: Member, key: str = key) -> Any:
            path = member.checkpoint.path / name
            return read_json_object(path).get(key) if path.is_file() else None

        who = voices.who(f"{key} in {name}", read) or voices.target
        value = read(who)
        if value is not None and value != held.get(key):
            changes[key] = value
        if who is not voices.target and who is not of:
            origin[f"{name}: {key}"] = who.name
    return changes


def _with_ids(values: Mapping[str, Any], mapped: IdMap) -> dict[str, Any]:
    def one(value: Any) -> Any:
        if isinstance(value, list):
            return [one(v) for v in value]
        return mapped(value) if isinstance(value, int) and value >= 0 else value

    return {key: one(value) for key, value in values.items()}
