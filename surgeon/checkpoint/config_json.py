"""config.json as plain data: read, checked, written in a stable form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from surgeon.checkpoint.header import check_no_pointer
from surgeon.errors import SurgeonError

M = TypeVar("M", bound=BaseModel)


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON file that must hold an object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SurgeonError(
            f"there is no {path.name}", str(path.parent), "give a folder that holds a checkpoint"
        ) from error
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        check_no_pointer(path)
        raise SurgeonError(
            f"{path.name} is not valid JSON: {error}", str(path), "restore the file from the model's source"
        ) from error
    if not isinstance(value, dict):
        raise SurgeonError(f"{path.name} does not hold a JSON object", str(path), "restore the file")
    return value


def read_as(path: Path, model: type[M], problem: str, mend: str) -> M:
    """A JSON file that holds a model of ours. Raises SurgeonError (problem and its first fault, the place, mend)."""
    try:
        return model.model_validate(read_json_object(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise SurgeonError(f"{problem}: {first['msg']}", f"{path}: {place}", mend) from error


def dump_json(value: Any) -> str:
    """The JSON text that surgeon writes: two spaces, UTF-8, a final newline, keys in the order given."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
