"""The chat templates of a checkpoint: one, or several by name, in files of their own or in tokenizer_config.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgeon.checkpoint.config_json import read_json_object
from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError

TEMPLATE = "chat_template.jinja"
MORE = "additional_chat_templates"
DEFAULT = "default"
TOKENIZER_CONFIG = "tokenizer_config.json"


def chat_templates(checkpoint: Checkpoint) -> dict[str, str]:
    """Name -> template, as transformers reads them: of the files, else those inside tokenizer_config.json (a text, or
    a list of names and texts); the one without a name is `default`. Empty where there are none.

    Raises SurgeonError on what is no template.
    """
    folder = checkpoint.path
    found = {}
    if (folder / TEMPLATE).is_file():
        found[DEFAULT] = _text(folder / TEMPLATE)
    for path in sorted((folder / MORE).glob("*.jinja")):
        found[path.stem] = _text(path)
    settings = folder / TOKENIZER_CONFIG
    if found or not settings.is_file():
        return found
    return _inside(read_json_object(settings).get("chat_template"), settings)


def file_of(name: str) -> str:
    """The file, relative to the checkpoint, that transformers reads the template of this name from."""
    return TEMPLATE if name == DEFAULT else f"{MORE}/{name}.jinja"


def _inside(value: Any, where: Path) -> dict[str, str]:
    if value is None:
        return {}
    if isinstance(value, str):
        return {DEFAULT: value}
    entries = value.items() if isinstance(value, Mapping) else [_pair(entry) for entry in _list(value, where)]
    found = {}
    for name, text in entries:
        if not isinstance(name, str) or not isinstance(text, str) or name in found or Path(name).name != name:
            raise _unreadable(where)
        found[name] = text
    return found


def _list(value: Any, where: Path) -> list[Any]:
    if not isinstance(value, list):
        raise _unreadable(where)
    return value


def _pair(entry: Any) -> tuple[Any, Any]:
    return (entry.get("name"), entry.get("template")) if isinstance(entry, Mapping) else (None, None)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SurgeonError(f"{path.name} is not UTF-8 text", str(path), "restore the file") from error


def _unreadable(where: Path) -> SurgeonError:
    return SurgeonError(
        "chat_template is neither a text nor a list of names and templates",
        f"{where}: chat_template",
        "restore the file from the model's source",
    )
