"""Which pieces are of a script: --script Tamil, Deva, Japanese, "Tamil,Telugu", auto.

A piece is of a script if it holds a character of it and otherwise only such characters, marks, modifier letters and
joiners that Unicode shares between scripts (Common, Inherited), and one space at its start. In byte-level BPE a piece
may end inside a character: then every assigned character that its last bytes can begin must be of the script or
shared, and at least one of the script (E0 AE begins Tamil alone, E0 many scripts). A piece that starts inside a
character may belong to any script and is of none.

Character data: the `regex` library (Unicode's Scripts.txt and ScriptExtensions.txt).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property

import regex  # type: ignore[import-untyped]

from surgeon.errors import SurgeonError, UsageError, did_you_mean
from surgeon.vocab.script_names import SCRIPTS

AUTO = "auto"
NEARLY_ALL = 0.95  # share of Latin letters from which on a text is taken as Latin
KANA_SHARE = 0.05  # share of kana from which on Han beside it is Japanese
_SHARED = r"[\p{Script=Common}\p{Script=Inherited}]"
_INSIDE = rf"[{_SHARED}&&[\p{{M}}\p{{Lm}}\u200C\u200D]]"
_WRITTEN_TOGETHER = {  # ISO 15924 codes of writing systems that take more than one script
    "Jpan": ("Japanese", ("Hani", "Hira", "Kana")),
    "Kore": ("Korean", ("Hang", "Hani")),
    "Hanb": ("Han_with_Bopomofo", ("Hani", "Bopo")),
    "Hrkt": ("Katakana_Or_Hiragana", ("Hira", "Kana")),
    "Hans": ("Han", ("Hani",)),
    "Hant": ("Han", ("Hani",)),
}


@dataclass(frozen=True)
class Script:
    """name: as Unicode names it. codes: ISO 15924, of the scripts that it is made of."""

    name: str
    codes: tuple[str, ...]

    def owns(self, piece: bytes) -> bool:
        """Whether a piece, as UTF-8 bytes that may end inside a character, is of this script."""
        text, head = _split(piece)
        if text is None or not self._all.fullmatch(text):
            return False
        return self._only(head) if head else self._one.search(text) is not None

    def may_hold(self, piece: bytes) -> bool:
        """Whether a piece of this script may have this piece inside it."""
        text, head = _split(piece.lstrip(_CONTINUATION))
        return text is not None and bool(self._all.fullmatch(text)) and (not head or self._some(head))

    def _only(self, head: bytes) -> bool:
        found = _begun(head)
        own = len(self._one.findall(found))
        return own > 0 and own + len(_compiled(rf"[{_SHARED}--{self._own}]").findall(found)) == len(found)

    def _some(self, head: bytes) -> bool:
        return _compiled(rf"[{self._own}{_INSIDE}]").search(_begun(head)) is not None

    @property
    def _own(self) -> str:
        """Of marks and modifier letters that scripts share, those that Unicode gives to this one."""
        script = "".join(rf"\p{{Script={code}}}" for code in self.codes)
        extended = "".join(rf"\p{{Script_Extensions={code}}}" for code in self.codes)
        return rf"[{script}[[{extended}]&&{_INSIDE}]]"

    @cached_property
    def _one(self) -> regex.Pattern[str]:
        return _compiled(self._own)

    @cached_property
    def _all(self) -> regex.Pattern[str]:
        return _compiled(rf" ?[{self._own}{_INSIDE}]*+")


_CONTINUATION = bytes(range(0x80, 0xC0))


@dataclass(frozen=True)
class Either(Script):
    """Several scripts: a piece is of one of them, and does not mix them."""

    parts: tuple[Script, ...]

    def owns(self, piece: bytes) -> bool:
        return any(part.owns(piece) for part in self.parts)

    def may_hold(self, piece: bytes) -> bool:
        return any(part.may_hold(piece) for part in self.parts)


def script_named(name: str) -> Script:
    """A script by its name or ISO 15924 code, or several with commas between; refuses others with what may have been
    meant."""
    if "," in name:
        parts = tuple(dict.fromkeys(map(_one_named, name.split(","))))
        if len(parts) > 1:
            return Either(",".join(p.name for p in parts), tuple(c for p in parts for c in p.codes), parts)
        return parts[0]
    return _one_named(name)


def _one_named(name: str) -> Script:
    plain = _plain(name)
    for code, (full, codes) in _WRITTEN_TOGETHER.items():
        if plain in (_plain(code), _plain(full)) and full != "Han":
            return Script(full, codes)
    aliases = {_plain(n): code for code, full in SCRIPTS.items() for n in (code, full)}
    aliases |= {_plain(code): codes[0] for code, (full, codes) in _WRITTEN_TOGETHER.items() if full == "Han"}
    if plain not in aliases:
        names = [*SCRIPTS.values(), *(full for full, _ in _WRITTEN_TOGETHER.values())]
        near = did_you_mean(name.strip().title(), names)
        hint = (
            near if near.endswith("?") else "such as Latin, Greek, Cyrillic, Arabic, Devanagari, Tamil, Han, Japanese"
        )
        raise UsageError(f"there is no script {name!r}", "--script", hint)
    code = aliases[plain]
    if not _known(code):
        raise UsageError(
            f"the installed regex {regex.__version__} does not know the script {SCRIPTS[code]}",
            "--script",
            "pip install --upgrade regex",
        )
    return Script(SCRIPTS[code], (code,))


def main_script(points: Mapping[str, int]) -> Script:
    """The script of a text, from how often each character stands in it.

    The script other than Latin with the most characters, or Latin where that is nearly all (95 per cent). Kana, and
    Han beside some kana (5 per cent of both), are Japanese.
    """
    text = "".join(sorted(points))
    found: dict[str, int] = {}
    for code in SCRIPTS:
        if code != "Hrkt" and _known(code):
            count = sum(points[c] for c in _compiled(rf"\p{{Script={code}}}").findall(text))
            if count:
                found[code] = count
    total = sum(found.values())
    if not total:
        raise SurgeonError("the corpus has no letters of any script", "--script auto", "leave out --script")
    if found.get("Latn", 0) >= NEARLY_ALL * total:
        return script_named("Latn")
    kana = found.get("Hira", 0) + found.get("Kana", 0)
    if kana and kana >= KANA_SHARE * (kana + found.get("Hani", 0)):
        found["Jpan"] = kana + found.pop("Hani", 0)
        found.pop("Hira", None)
        found.pop("Kana", None)
    found.pop("Latn", None)
    return script_named(max(found, key=lambda code: (found[code], code)))


def _split(piece: bytes) -> tuple[str | None, bytes]:
    """The whole characters of a piece and the bytes of an unfinished last one; None where it is no UTF-8 so far."""
    try:
        return piece.decode("utf-8"), b""
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":
            return None, b""
        return piece[: error.start].decode("utf-8"), piece[error.start :]


@cache
def _begun(head: bytes) -> str:
    """All assigned characters whose UTF-8 starts with these bytes and goes on."""
    more = {2: 1, 3: 2, 4: 3}[_size(head[0])] - len(head) + 1
    first = _point(head + b"\x80" * more)
    points = range(max(first, 0x80), min(_point(head + b"\xbf" * more), 0x10FFFF) + 1)
    text = "".join(chr(p) for p in points if not 0xD800 <= p < 0xE000)
    return "".join(_compiled(r"[^\p{Cn}\p{Co}]").findall(text))


def _size(lead: int) -> int:
    return 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4


def _point(raw: bytes) -> int:
    """What the bytes say, also where they are no shortest form."""
    value = raw[0] & (0x7F >> len(raw))
    for byte in raw[1:]:
        value = value << 6 | byte & 0x3F
    return value


@cache
def _compiled(pattern: str) -> regex.Pattern[str]:
    return regex.compile(pattern, regex.VERSION1)


@cache
def _known(code: str) -> bool:
    try:
        _compiled(rf"\p{{Script={code}}}")
    except regex.error:
        return False
    return True


def _plain(name: str) -> str:
    """As Unicode compares names: case, spaces, hyphens and underscores do not count."""
    return regex.sub(r"[\s_-]", "", name).casefold()
