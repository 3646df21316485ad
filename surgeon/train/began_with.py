"""What a run wrote down when it began, read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from surgeon.checkpoint.config_json import read_json_object
from surgeon.errors import SurgeonError


def began_with(settings: Path, mend: str) -> dict[str, Any]:
    """Settings and digests of the inputs, from the settings.json of a run. Raises SurgeonError, with `mend`, where it
    is lost or damaged: no other file of the run says all of it."""
    try:
        return read_json_object(settings)
    except SurgeonError as error:
        raise SurgeonError(error.problem, error.where, mend) from error
