"""The model that PEFT wrote into an adapter (base_model_name_or_path), found among the ancestors of another one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from surgeon.arch.family import family_of
from surgeon.checkpoint.config_json import read_json_object
from surgeon.checkpoint.index import ADAPTER_CONFIG, CONFIG, Checkpoint
from surgeon.checkpoint.lineage import Parent


def names_itself(adapter: Path, model: Checkpoint) -> bool:
    """Whether the folder that the adapter names is that of the model, and held no ancestor of it before: of one that
    was changed in place the name says nothing."""
    named, place = _named(adapter), model.path.resolve()
    if not named or not Path(named).is_dir() or Path(named).resolve() != place:
        return False
    return all(before != place for _, before, _ in _ancestors(model))


def places_since(adapter: Path, model: Checkpoint) -> tuple[str, dict[int, int]] | None:
    """The name of the nearest ancestor that the adapter names, and where each of that one's blocks is now; None where
    it names none of them, or only by a name that the model itself bears too.

    A folder that is there is compared by its path, and by its digest where it only has an ancestor's name (a copy).
    That of the model itself is none of them, though it may have held one.
    """
    named = _named(adapter)
    for parent, place, now in _ancestors(model) if named else ():
        folder = Path(named)
        if folder.is_dir():
            found = folder.resolve() == place != model.path.resolve() or (
                folder.resolve().name == _plain(parent.name)
                and (folder / CONFIG).is_file()
                and Checkpoint.open(folder).digest == parent.digest
            )
        else:
            known = {_plain(parent.name), _plain(parent.name).rpartition("/")[2]} - {model.path.resolve().name}
            found = bool(known & {_plain(named), _plain(named).rpartition("/")[2]})
        if found:
            return parent.name, now
    return None


def _ancestors(model: Checkpoint) -> Iterator[tuple[Parent, Path, dict[int, int]]]:
    """The parent, its parent and so on: where it lay, and where its blocks are now (its number -> the present one)."""
    place = model.path.resolve()
    now = {block: block for block in range(family_of(model).depth)}  # number at the step looked at -> number now
    for step in model.lineage.chain() if model.lineage is not None else ():
        if step.blocks is not None:
            added = {entry.block for entry in step.blocks.new}
            now = {
                source: now[block]
                for block, source in enumerate(step.blocks.source)
                if block not in added and block in now
            }
        if step.parents:
            place = (place / step.parents[0].path).resolve()
            yield step.parents[0], place, now


def _named(adapter: Path) -> str:
    path = adapter / ADAPTER_CONFIG
    named = read_json_object(path).get("base_model_name_or_path") if path.is_file() else None
    return named.rstrip("/") if isinstance(named, str) else ""


def _plain(name: str) -> str:
    """Without the revision of a hub id."""
    return name.partition("@")[0]
