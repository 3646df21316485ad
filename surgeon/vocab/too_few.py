"""The refusal of a corpus that does not hold as many new tokens as were asked for, whatever the kind of tokenizer."""

from __future__ import annotations

from surgeon.errors import SurgeonError


def too_few(num: int, add: int, corpus: str, min_count: int, script: str | None, bans: str) -> SurgeonError:
    """num: of tokens that there are. corpus: its size. bans: what the text to keep forbids; empty where nothing."""
    where = [f"{corpus}, --min-count {min_count}", f"script {script}" if script else "", bans]
    cures = [f"ask for {num} or fewer"] if num else []
    cures.append("give more text")
    if min_count > 1:
        cures.append("lower --min-count")
    if bans:
        cures.append("take the target language out of the text to keep")
    last = cures.pop()
    return SurgeonError(
        f"the corpus supports {num:,} new tokens, {add:,} were asked for",
        "; ".join(filter(None, where)),
        ", ".join([*cures, f"or {last}"]) if cures else last,
    )


def too_little_gain(stop_gain: float, corpus: str) -> SurgeonError:
    """Where --stop-gain leaves no token at all."""
    return SurgeonError(
        f"already the first 1,000 new tokens save less than {stop_gain:g} per cent of the text's tokens",
        corpus,
        "lower --stop-gain, or give text that the tokenizer cuts into more pieces",
    )
