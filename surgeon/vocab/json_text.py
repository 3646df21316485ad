"""JSON files that are changed in one place: read strictly, written back the way they were written."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgeon.checkpoint.header import check_no_pointer
from surgeon.errors import SurgeonError


@dataclass(frozen=True)
class Layout:
    """How a JSON text is set: `indent` of a level (None: all on one line), what stands between entries and after a
    key, whether letters beyond ASCII are escaped, and whether the file ends with a newline."""

    indent: str | None = "  "
    comma: str = ","
    colon: str = ": "
    ascii: bool = False
    end: str = ""

    @classmethod
    def of(cls, text: str) -> Layout:
        """The layout of a JSON object's text, taken from its beginning and its end."""
        body = text.rstrip()
        escaped = body.isascii() and "\\u" in body
        end = text[len(body) :]
        head = re.match(r'\{(\s*)"(?:[^"\\]|\\.)*"\s*:(\s*)', body)
        if head is None:
            return cls(ascii=escaped, end=end)
        if "\n" in head[1]:
            return cls(head[1].rpartition("\n")[2], ",", ":" + head[2], escaped, end)
        spaced = re.search(r'[\d"\]}el]\s*,( ?)"', body) if len(body) < 1 << 16 else _comma(body)
        return cls(None, "," + (spaced[1] if spaced else " "), ":" + head[2], escaped, end)

    def dump(self, value: Any) -> str:
        """`value` in this layout."""
        separators = (self.comma, self.colon)
        return json.dumps(value, ensure_ascii=self.ascii, indent=self.indent, separators=separators) + self.end


def _comma(body: str) -> re.Match[str] | None:
    return re.search(r'[\d"\]}el]\s*,( ?)"', body[: 1 << 16])


def read_json_text(path: Path) -> tuple[dict[str, Any], Layout]:
    """A JSON file that must hold an object, with its layout. Refuses an object with a key that stands twice: readers
    differ in which one they take."""
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text, object_pairs_hook=_unique)
    except FileNotFoundError as error:
        raise SurgeonError(f"there is no {path.name}", str(path.parent), "give a folder with a tokenizer") from error
    except _TwiceError as error:
        raise SurgeonError(f"{error} stands twice in {path.name}", str(path), "restore the file") from error
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        check_no_pointer(path)
        raise SurgeonError(
            f"{path.name} is not valid JSON: {error}", str(path), "restore the file from the model's source"
        ) from error
    if not isinstance(value, dict):
        raise SurgeonError(f"{path.name} does not hold a JSON object", str(path), "restore the file")
    return value, Layout.of(text)


class _TwiceError(Exception):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _TwiceError(repr(key))
            seen.add(key)
    return found
