"""Scripts by name, pieces of a script, and the script of a text."""

from __future__ import annotations

import pytest
import regex

from surgeon.errors import SurgeonError, UsageError
from surgeon.vocab.script import main_script, script_named
from surgeon.vocab.script_names import SCRIPTS


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Tamil", "Tamil"), ("taml", "Tamil"), ("Deva", "Devanagari"), ("DEVANAGARI", "Devanagari"),
        ("old italic", "Old_Italic"), ("Old-Italic", "Old_Italic"), ("Jpan", "Japanese"), ("korean", "Korean"),
        ("Hant", "Han"), ("Hani", "Han"), ("Hrkt", "Katakana_Or_Hiragana"),
    ],
)  # fmt: skip
def test_names_and_codes(name: str, found: str) -> None:
    assert script_named(name).name == found


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="no script 'Devangari'") as refused:
        script_named("Devangari")
    assert refused.value.hint.startswith("did you mean 'Devanagari'")
    for name in ("", "Common", "x" * 40):
        with pytest.raises(UsageError, match="no script"):
            script_named(name)


def test_several_scripts_own_what_one_of_them_owns() -> None:
    both = script_named("Tamil, grek,Taml")
    assert (both.name, both.codes) == ("Tamil,Greek", ("Taml", "Grek"))
    assert script_named("Taml,Tamil") == TAMIL
    for piece in ("தமிழ்", " தமிழ்", "λόγος", " λόγος"):
        assert both.owns(piece.encode()) and both.may_hold(piece.encode())
    for piece in ("word", "λόγοςதமிழ்", "தமிழ் λόγος", "தமிழword"):
        assert not both.owns(piece.encode())
    assert not both.may_hold(b"word")
    with pytest.raises(UsageError, match="no script 'Grk'"):
        script_named("Tamil,Grk")
    with pytest.raises(UsageError, match="no script ''"):
        script_named("Tamil,")


def test_the_names_are_those_of_unicode() -> None:
    """Against the data of two libraries: fontTools has the names, regex the characters."""
    names = pytest.importorskip("fontTools.unicodedata").Scripts.NAMES
    for code, name in SCRIPTS.items():
        assert names.get(code, name) == name
    known = [code for code in SCRIPTS if code in names]
    assert len(known) > 160
    for code in known[::9]:
        try:
            by_code, by_name = (regex.compile(rf"\p{{Script={n}}}") for n in (code, SCRIPTS[code]))
        except regex.error:
            continue  # newer than the installed regex
        text = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x20000)]))
        assert by_code.findall(text) == by_name.findall(text)


TAMIL, GREEK, JAPANESE, DEVANAGARI = (script_named(n) for n in ("Tamil", "Greek", "Japanese", "Devanagari"))


@pytest.mark.parametrize(
    ("script", "piece"),
    [
        (TAMIL, "தமிழ்"), (TAMIL, " தமி"), (DEVANAGARI, "क\u200dष"), (DEVANAGARI, "क\u0951"), (JAPANESE, "コーヒー"),
        (JAPANESE, "心筋炎の"), (GREEK, "ώρα"), (GREEK, "α\u0301"),
    ],
)  # fmt: skip
def test_pieces_of_a_script(script: object, piece: str) -> None:
    raw = piece.encode()
    assert script.owns(raw)  # type: ignore[attr-defined]
    assert all(script.may_hold(raw[a:b]) for a in range(len(raw)) for b in range(a, len(raw) + 1))  # type: ignore[attr-defined]


@pytest.mark.parametrize("piece", ["", " ", "தa", "த.", "த1", "1", "த த", "த ", "क", "\u200d", "த\u0000", "👩"])
def test_pieces_of_no_or_another_script(piece: str) -> None:
    assert not TAMIL.owns(piece.encode())


def test_parts_of_characters() -> None:
    assert TAMIL.owns(b"\xe0\xae")  # U+0B80 to U+0BBF: Tamil alone
    assert TAMIL.owns("த".encode() + b"\xe0\xaf")
    assert not TAMIL.owns(b"\xe0")  # many scripts begin so
    assert TAMIL.may_hold(b"\xe0")
    assert not TAMIL.owns(b"\xae\xa4")  # the end of some character
    assert TAMIL.may_hold(b"\xae\xa4")
    assert DEVANAGARI.owns(b"\xe0\xa5")  # the danda in there is shared
    assert GREEK.owns(b"\xce")
    assert not GREEK.owns(b"\xcf")  # Coptic too
    assert not TAMIL.owns(b"\xff\xae")
    assert not TAMIL.may_hold("த".encode() + b"\xae")


def test_the_script_of_a_text() -> None:
    def of(text: str) -> str:
        return main_script({c: text.count(c) for c in text}).name

    assert of("a" * 94 + "த" * 6) == "Tamil"
    assert of("a" * 96 + "த" * 4) == "Latin"
    assert of("a" * 60 + "த" * 30 + "क" * 20 + "," * 500) == "Tamil"
    assert of("心" * 90 + "の" * 10) == "Japanese"
    assert of("心" * 99 + "の") == "Han"
    assert of("나" * 60 + "心" * 40) == "Hangul"
    with pytest.raises(SurgeonError, match="no letters"):
        of("12.3 👩")
