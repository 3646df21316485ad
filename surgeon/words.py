"""Numbers and names as reports and cards write them; an absent number is a dash, never a zero."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Collection, Mapping
from pathlib import PurePath
from typing import Any

ABSENT = "–"
LONGEST = 240  # characters of one setting in the HTML; the JSON beside it has the whole
_FOLDERS = re.compile(r"(^|=)(?:~[^/]*/|\.{1,2}/|/(?=[^/]+/))(?:[^/]+/)*(?=[^/]+/?$)")
# `a/b` may be a model of a hub, `a/b.jsonl` is a file; behind it may stand a weight
_FILES = re.compile(
    r"(^|=)(?!hf:)(?:[^/=]+/)+(?=[^/]+\.(?:jsonl|txt|parquet|json|yaml|yml|csv|tsv|vec|npz|npy|model|safetensors|pt|jinja)"
    r"(?:\.(?:gz|bz2|xz|zst))?(?::[0-9.eE+-]+)?$)",
    re.IGNORECASE,
)
_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def visible(text: str) -> str:
    """`text` with control, formatting (bidirectional marks, zero-width), private and unpaired characters spelt out.

    A token may hold any of them; written as `\\n` or `\\u202e` they can neither break the page nor turn it around.
    """
    if text.isprintable():
        return text
    return "".join(_spelt(c) if unicodedata.category(c) in _HIDDEN else c for c in text)


def _spelt(char: str) -> str:
    short = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
    code = ord(char)
    return short.get(char) or (
        f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    )


def fixed(value: float | None, digits: int = 3) -> str:
    """A number with `digits` decimals."""
    return ABSENT if value is None else f"{value:,.{digits}f}"


def percent(value: float | None) -> str:
    """A signed change, `-12.3%`; what rounds to nothing carries no sign."""
    if value is None:
        return ABSENT
    text = f"{value:+,.1f}%"
    return "0.0%" if text in ("+0.0%", "-0.0%") else text


def signed(value: float | None, digits: int = 4) -> str:
    """A difference, `+0.0123`; what rounds to nothing carries no sign."""
    if value is None:
        return ABSENT
    text = f"{value:+,.{digits}f}"
    return text[1:] if not text.strip("+-0.") else text


def share(value: float | None) -> str:
    """A part of a whole, `97.3%`; what is not all of it is never written as 100%."""
    if value is None:
        return ABSENT
    text = f"{100 * value:.1f}%"
    return "<100%" if text == "100.0%" and value < 1 else text


def direction(value: float | None) -> str:
    """`better` for a loss that fell, `worse` for one that rose, `same` as shown by `percent`."""
    if value is None or not math.isfinite(value) or percent(value) == "0.0%":
        return "same"
    return "better" if value < 0 else "worse"


def short(value: float) -> str:
    """A count for an axis: 1500000 -> 1.5M."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def duration(seconds: float | None) -> str:
    """Seconds for people: 0.4 s, 12 s, 3 min 05 s, 2 h 07 min."""
    if seconds is None or not math.isfinite(seconds):
        return ABSENT
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def without_folders(value: Any) -> Any:
    """A JSON value with the last name of each path in it that begins at a root, a home or the folder of a command
    (`./x`, `../x`; `a/b` may be a model of a hub), or ends as a file of data does (`a/x.jsonl`), also in
    `NAME=PATH:WEIGHT`."""
    if isinstance(value, str):
        return _FILES.sub(r"\1", _FOLDERS.sub(r"\1", value))
    if isinstance(value, Mapping):
        return {key: without_folders(held) for key, held in value.items()}
    return [without_folders(held) for held in value] if isinstance(value, list) else value


def plain(value: Any) -> str:
    """Any JSON value on one line, cut when long: counts with thousands separated, floats short, of a path (see
    without_folders) the last name, the rest as JSON."""
    if value is None:
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list) and all(isinstance(v, str | int | float) for v in value):
        text = ", ".join(without_folders(v) if isinstance(v, str) else plain(v) for v in value)
    elif isinstance(value, str):
        text = without_folders(value)
    else:
        text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text):,} characters)"


def pairs(values: Mapping[str, Any], leave: Collection[str] = ()) -> list[tuple[str, str]]:
    """The settings or results that say something: no nulls, no empty ones, nested ones by dotted names.

    An item of a list of mappings goes by its "name", else by its place.
    """
    found: list[tuple[str, str]] = []
    for key, value in values.items():
        if key in leave or value is None or value in ([], {}, ""):
            continue
        if isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
            value = {str(item.get("name", i)): {k: v for k, v in item.items() if k != "name"}
                     for i, item in enumerate(value)}  # fmt: skip
        if isinstance(value, Mapping):
            found += [(f"{key}.{name}", text) for name, text in pairs(value)]
        else:
            found.append((key, plain(value)))
    return found


def model_label(model: str) -> str:
    """What a model is called in a table: the folder's name of a path, a hub id as it is."""
    text = model.rstrip("/")
    looks_local = text.startswith(("/", ".", "~")) or text.count("/") > 1
    return PurePath(text).name if looks_local and PurePath(text).name else model
