"""surgeon cache: what is kept to be quick. Its removal is a verb of its own."""

from __future__ import annotations

from typing import Annotated

import typer

from surgeon.cli.options import Debug, Json, Quiet
from surgeon.cli.output import Output
from surgeon.cli.verbs import verb_lines, verbs
from surgeon.cli.words import example_text
from surgeon.errors import UsageError, did_you_mean

EXAMPLES = ("surgeon cache", "surgeon cache --json")
ABOUT = (
    "Say where the cache is ($XDG_CACHE_HOME/surgeon, by default ~/.cache/surgeon), what it holds and how large it is. "
    "Anything in it is made again when it is asked for."
)


def register(app: typer.Typer) -> None:
    @app.command("cache", help=ABOUT, epilog=example_text(EXAMPLES, verb_lines("cache")))
    def cache(
        verb: Annotated[str | None, typer.Argument(metavar="VERB", help="prune.")] = None,
        json: Json = False,
        quiet: Quiet = False,
        debug: Debug = False,
    ) -> None:
        from rich.filesize import decimal

        from surgeon.checkpoint.known_digests import cache_home
        from surgeon.data.cache_entries import KINDS, entries

        if verb is not None:  # a known one never comes here
            known = [name.split()[1] for name in verbs("cache")]
            raise UsageError(f"cache has no verb {verb!r}", f"surgeon cache {verb}", did_you_mean(verb, known))
        held = entries()
        of_kind = {kind: [entry for entry in held if entry.kind == kind] for kind in KINDS}
        sizes = {kind: sum(entry.nbytes for entry in own) for kind, own in of_kind.items()}
        unfinished = {kind: sum(not entry.whole for entry in own) for kind, own in of_kind.items()}
        kinds = [
            {"kind": kind, "entries": len(own), "unfinished": unfinished[kind], "bytes": sizes[kind]}
            for kind, own in of_kind.items()
        ]
        output, total = Output(json, quiet), sum(sizes.values())
        data = {"folder": str(cache_home()), "bytes": total, "kinds": kinds}
        output.emit(data, [f"{cache_home()}: {decimal(total)}"])
        if not json:
            rows = [
                (kind, words, f"{len(of_kind[kind]):,}", f"{unfinished[kind]:,}", decimal(sizes[kind]))
                for kind, words in KINDS.items()
            ]
            output.table(data, "", ("kind", "what it is", "entries", "unfinished", "size"), rows)
