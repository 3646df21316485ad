"""surgeon report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from surgeon.cli.options import Debug, Json, Quiet
from surgeon.cli.output import Output
from surgeon.cli.words import example_text

if TYPE_CHECKING:
    from surgeon.report.vocabulary import Vocabulary

EXAMPLES = (
    "surgeon report domain --out domain-report",
    "surgeon report wide-hull --data domain=domain.jsonl --data general=general.jsonl --tokens 2k --out vocab-report",
)
ABOUT = (
    "One offline HTML file with plots, and its numbers as JSON, for a run's folder or a checkpoint. With --data also "
    "what an extended vocabulary gives and costs on each corpus, before and after."
)
_VOCABULARY = "Extended vocabulary"


def register(app: typer.Typer) -> None:
    @app.command("report", help=ABOUT, epilog=example_text(EXAMPLES))
    def report(
        folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run's folder, or a checkpoint.")],
        out: Annotated[
            Path | None,
            typer.Option("--out", metavar="DIR", help=r"Where to write it \[default: DIR].", show_default=False),
        ] = None,
        data: Annotated[
            list[str] | None,
            typer.Option(
                "--data", metavar="CORPUS", help="A corpus, NAME=CORPUS; repeatable.", rich_help_panel=_VOCABULARY
            ),
        ] = None,
        after: Annotated[
            str | None,
            typer.Option(
                "--after", metavar="MODEL", help="A model trained from DIR, beside it.", show_default=False,
                rich_help_panel=_VOCABULARY,
            ),
        ] = None,
        parent: Annotated[
            str | None,
            typer.Option(
                "--parent", metavar="MODEL", help="Where the model before the extension is now.", show_default=False,
                rich_help_panel=_VOCABULARY,
            ),
        ] = None,
        tokens: Annotated[
            str | None,
            typer.Option(
                "--tokens", metavar="N", help="Whole documents until this many old tokens (k, M, B).",
                show_default=False, rich_help_panel=_VOCABULARY,
            ),
        ] = None,
        text_field: Annotated[
            str, typer.Option("--text-field", help="The field of records.", rich_help_panel=_VOCABULARY)
        ] = "text",
        lines: Annotated[
            bool, typer.Option("--lines", help="A .txt file holds a document a line.", rich_help_panel=_VOCABULARY)
        ] = False,
        device: Annotated[
            Literal["auto", "cpu", "cuda"],
            typer.Option("--device", help="Where to compute.", rich_help_panel=_VOCABULARY),
        ] = "auto",
        json: Json = False,
        quiet: Quiet = False,
        debug: Debug = False,
    ) -> None:  # fmt: skip
        from surgeon.data.numbers import parse_count
        from surgeon.errors import UsageError
        from surgeon.model_ref import resolve_plain
        from surgeon.report.html import write_report
        from surgeon.report.vocabulary import measure_vocabulary

        output = Output(json, quiet)
        given = {"--after": after, "--parent": parent, "--tokens": tokens}
        lonely = next((flag for flag, value in given.items() if value is not None), None)
        if lonely is not None and not data:
            raise UsageError(f"{lonely} is for a measurement on texts", lonely, "add --data NAME=CORPUS")
        vocabulary = None
        if data:
            vocabulary = measure_vocabulary(
                folder,
                data,
                parent=None if parent is None else resolve_plain(parent, "a parent").path,
                after=None if after is None else resolve_plain(after, "a measurement").path,
                tokens=None if tokens is None else _positive(parse_count(tokens)),
                text_field=text_field,
                lines=lines,
                device=device,
                progress=output.progress(),
            )
        paths = write_report(folder, out=out, vocabulary=vocabulary)
        written = {"html": str(paths.html), "json": str(paths.json)}
        if vocabulary is None:
            output.emit(written)
        elif json:
            output.emit(written | {"vocabulary": vocabulary.to_json()})
        else:
            output.table(written, "", ("corpus", *_COLUMNS), _rows(vocabulary))
            output.emit(written)


_COLUMNS = (
    "bytes/token before", "after", "new tokens used", "documents as before", "bits/byte before", "step 0", "after cpt",
)  # fmt: skip


def _rows(found: Vocabulary) -> list[tuple[str, ...]]:
    """A line a corpus for the terminal; the page has all of it."""
    from surgeon.words import fixed, share

    rows = []
    for corpus in found.corpora:
        held = corpus.tokenization
        bits = dict(zip(found.models, corpus.bits_per_byte, strict=True))
        rows.append(
            (
                corpus.name,
                fixed(held.before.bytes_per_token),
                fixed(held.after.bytes_per_token),
                share(held.new_used),
                share(held.same_documents),
                *(fixed(bits.get(role)) for role in ("before", "step_0", "after_cpt")),
            )
        )
    return rows


def _positive(tokens: int) -> int:
    from surgeon.errors import UsageError

    if tokens < 1:
        raise UsageError(f"there are no {tokens} tokens", "--tokens", "for example 10k")
    return tokens
