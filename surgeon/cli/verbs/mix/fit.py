"""surgeon mix fit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from surgeon.cli.options import Debug, DryRun, Json, Quiet
from surgeon.cli.output import Output
from surgeon.cli.words import example_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from surgeon.laws.saved import Fit

EXAMPLES = (
    "surgeon mix fit runs.csv --law dcpt --out law.json",
    "surgeon mix fit runs-of-one-size.jsonl --law cmr --out critical.json --json",
)
ABOUT = "Fit a law to finished trainings: .csv or .jsonl tables, or folders of cpt runs; --out writes it."


def register(app: typer.Typer) -> None:
    @app.command("mix fit", help=ABOUT, epilog=example_text(EXAMPLES))
    def fit(
        runs: Annotated[
            list[Path],
            typer.Argument(
                metavar="RUNS",
                help="Tables with the columns parameters, tokens, share (of the domain in all tokens, 0 to 1), general and "
                "domain (held-out nats a token at the end), and optionally general_start (before the training); or "
                "folders of finished cpt runs.",
            ),
        ],
        law: Annotated[
            str, typer.Option("--law", metavar="LAW", help="See `surgeon methods law`.", show_default=False)
        ],
        general: Annotated[
            str | None,
            typer.Option(
                "--general", metavar="NAME", help="Of folders: the --eval of general text.", show_default=False
            ),
        ] = None,
        domain: Annotated[
            str | None,
            typer.Option("--domain", metavar="NAME", help="Of folders: the --eval of the domain.", show_default=False),
        ] = None,
        out: Annotated[
            Path | None, typer.Option("--out", metavar="FILE", help="Where to write the fit.", show_default=False)
        ] = None,
        option: Annotated[
            list[str] | None,
            typer.Option("--option", metavar="KEY=VALUE", help="Of the law; repeatable.", show_default=False),
        ] = None,
        dry_run: DryRun = False,
        force: Annotated[bool, typer.Option("--force", help="Replace FILE.")] = False,
        json: Json = False,
        quiet: Quiet = False,
        debug: Debug = False,
    ) -> None:
        from surgeon.checkpoint.commit import check_apart
        from surgeon.laws.fit import fit_law
        from surgeon.laws.read_runs import read_runs
        from surgeon.laws.saved import check_free, write_fit

        if out is not None:
            check_free(out, force)
            check_apart(out, runs)
        found = fit_law(read_runs(runs, general, domain), law, _options(option or []))
        if out is not None and not dry_run:
            write_fit(out, found)
        told = {"out": None if out is None else str(out)} | found.model_dump(mode="json")
        Output(json, quiet).emit(told, list(_lines(found, out, dry_run)))


def _options(words: list[str]) -> dict[str, str]:
    from surgeon.errors import UsageError

    for word in words:
        if not word.partition("=")[1]:
            raise UsageError(f"{word!r} is not KEY=VALUE", "--option", "write --option KEY=VALUE")
    return {word.partition("=")[0]: word.partition("=")[2] for word in words}


def _lines(fit: Fit, out: Path | None, dry_run: bool) -> Iterator[str]:
    """What a person reads; --json has every digit."""
    yield f"law {fit.law}, {fit.runs} runs"
    for name, constants in fit.constants.items():
        yield f"{name}: " + ", ".join(f"{key} {value:.6g}" for key, value in constants.items())
    for curve, q in fit.quality.items():
        yield f"{curve}: R^2 {q.r2:.6f}, Huber loss {q.huber:.3g}, largest error {q.largest_error:.3%}"
    for curve, trend in fit.over_share.items():
        place = trend.turns_at
        where = "" if place is None else (
            f", first at share {place['share']:.4g} (parameters {place['parameters']:,.0f}, tokens {place['tokens']:,.0f})"
        )  # fmt: skip
        yield f"{curve} loss {trend.goes} with the domain's share over the fitted range{where}"
    for name, (low, high) in fit.range.model_dump().items():
        yield f"fitted {name}: " + (f"{low:g} to {high:g}" if name == "share" else f"{low:,.0f} to {high:,.0f}")
    if out is not None:
        yield f"{'would be ' if dry_run else ''}written to {out}"
