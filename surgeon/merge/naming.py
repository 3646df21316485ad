"""What the models of a merge are called where two folders have one name: `final` of two runs, `checkpoint-500`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from surgeon.merge.ancestry import Member


def told_apart(members: Sequence[Member]) -> list[Member]:
    """The members, those of one name by as many of the folders above theirs as tell them apart; one model that is
    given twice has one name."""
    by_name: dict[str, dict[str, Member]] = {}
    for member in members:
        by_name.setdefault(member.name, {}).setdefault(member.digest, member)
    return [
        member if len(by_name[member.name]) == 1 else replace(member, name=_longer(member, by_name[member.name]))
        for member in members
    ]


def _longer(member: Member, alike: dict[str, Member]) -> str:
    folders = [_folders(other) for other in alike.values()]
    most = max(len(path.parts) for pair in folders for path in pair)
    lengths = range(1, most + 1)
    enough = next((n for n in lengths if len({_name(pair, n) for pair in folders}) == len(folders)), most)
    return _name(_folders(alike[member.digest]), enough)


def _folders(member: Member) -> tuple[Path, ...]:
    """Of the model, and of its adapter where it has one."""
    found = (member.checkpoint.path, *(() if member.folder is None else (member.folder,)))
    return tuple(path.absolute() for path in found)


def _name(folders: tuple[Path, ...], length: int) -> str:
    return "+".join(Path(*path.parts[-length:]).as_posix() for path in folders)
