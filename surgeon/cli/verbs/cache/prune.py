"""surgeon cache prune."""

from __future__ import annotations

import math
import time
from typing import Annotated

import typer

from surgeon.cli.options import Debug, DryRun, Json, Quiet
from surgeon.cli.output import Output
from surgeon.cli.words import example_text
from surgeon.errors import UsageError
from surgeon.number import number

EXAMPLES = (
    "surgeon cache prune --older-than 30 --dry-run",
    "surgeon cache prune --keep 20G --dry-run --json",
)
ABOUT = (
    "Remove from the cache what was not used for some days, or the oldest until it is small enough, or all of it; and "
    "what killed processes left. Runs that go on keep what they have mapped."
)
_DAY_NS = 86_400 * 10**9


def _days(text: str) -> float:
    try:
        return number(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is not a number", "--older-than", "give days, such as 30 or 0.5") from error


def register(app: typer.Typer) -> None:
    @app.command("cache prune", help=ABOUT, epilog=example_text(EXAMPLES))
    def prune(
        older_than: Annotated[
            float | None,
            typer.Option(
                "--older-than",
                parser=_days,
                metavar="DAYS",
                help="What was last used so long ago.",
                show_default=False,
            ),
        ] = None,
        keep: Annotated[
            str | None,
            typer.Option(
                "--keep",
                metavar="BYTES",
                help="Down to so much, such as 20G; the oldest go first.",
                show_default=False,
            ),
        ] = None,
        everything: Annotated[bool, typer.Option("--all", help="All of it.")] = False,
        dry_run: DryRun = False,
        json: Json = False,
        quiet: Quiet = False,
        debug: Debug = False,
    ) -> None:
        from rich.filesize import decimal

        from surgeon.checkpoint.known_digests import cache_home
        from surgeon.data.cache_entries import entries, to_prune
        from surgeon.data.cache_entries import prune as remove

        before, most = _bounds(older_than, keep, everything)
        held = entries()
        chosen = to_prune(held, before, most)
        gone = chosen if dry_run else remove(chosen)
        freed = sum(entry.nbytes for entry in gone)
        left = sum(entry.nbytes for entry in held) - freed
        data = {
            "folder": str(cache_home()),
            "dry_run": dry_run,
            "removed": [{"kind": e.kind, "path": str(e.path), "bytes": e.nbytes} for e in gone],
            "bytes_removed": freed,
            "bytes_left": left,
        }
        does = "would be removed" if dry_run else "removed"
        line = f"{len(gone):,} of {len(held):,} entries {does} from {cache_home()}: {decimal(freed)}, {decimal(left)} left"
        Output(json, quiet).emit(data, [line])


def _bounds(older_than: float | None, keep: str | None, everything: bool) -> tuple[float, float]:
    """(time in nanoseconds before which an entry goes, bytes that may stay)."""
    from surgeon.data.numbers import parse_bytes

    where = "surgeon cache prune"
    if everything + (older_than is not None) + (keep is not None) == 0:
        raise UsageError("nothing says what to remove", where, "give --older-than DAYS, --keep BYTES or --all")
    if everything and (older_than is not None or keep is not None):
        raise UsageError("--all leaves nothing to choose", where, "leave out --older-than and --keep")
    if older_than is not None and not 0 <= older_than < math.inf:
        raise UsageError(f"--older-than is {older_than}", where, "give days, from 0 on")
    try:
        most = math.inf if keep is None else parse_bytes(keep)
    except ValueError as error:
        raise UsageError(str(error), "--keep", "write 500M or 20G") from error
    if everything:
        return math.inf, math.inf
    return -math.inf if older_than is None else time.time_ns() - older_than * _DAY_NS, most
