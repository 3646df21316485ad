"""surgeon mix optimum."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from surgeon.cli.numbers import count, share_of
from surgeon.cli.options import Debug, Json, Quiet
from surgeon.cli.output import Output, pairs
from surgeon.cli.words import example_text
from surgeon.errors import DIFFERENCE, UsageError

if TYPE_CHECKING:
    from surgeon.laws.saved import Fit

EXAMPLES = (
    "surgeon mix optimum law.json --parameters 1.8B --tokens 10B --max-general-rise 3% --general-start 2.5",
    "surgeon mix optimum law.json --parameters 1.8B --domain-tokens 5B",
    "surgeon mix optimum critical.json --parameters 460M --tokens 20B --eps 0.05",
)
ABOUT = (
    "The largest share of the domain that keeps the general loss within a bound; with --domain-tokens the share of the "
    "least domain loss where that much domain text is read once. Exit 3 where no share keeps the bound."
)


def register(app: typer.Typer) -> None:
    @app.command("mix optimum", help=ABOUT, epilog=example_text(EXAMPLES))
    def optimum(
        fit: Annotated[Path, typer.Argument(metavar="FIT", help="A file of `surgeon mix fit --out`.")],
        parameters: Annotated[
            str, typer.Option("--parameters", metavar="N", help="Of the model (k, M, B).", show_default=False)
        ],
        tokens: Annotated[
            str | None, typer.Option("--tokens", metavar="N", help="Of the training, in all.", show_default=False)
        ] = None,
        domain_tokens: Annotated[
            str | None,
            typer.Option(
                "--domain-tokens", metavar="N", help="Of the domain text there is; the training is that / share long.",
                show_default=False,
            ),
        ] = None,
        max_general_rise: Annotated[
            str | None,
            typer.Option(
                "--max-general-rise", metavar="X", help="Of the general loss, relative: 3% or 0.03.", show_default=False
            ),
        ] = None,
        eps: Annotated[
            str | None,
            typer.Option("--eps", metavar="X", help="Of the general loss, in nats a token.", show_default=False),
        ] = None,
        general_start: Annotated[
            str | None,
            typer.Option(
                "--general-start", metavar="X", help="General loss before the training, where the runs do not say it.",
                show_default=False,
            ),
        ] = None,
        json: Json = False,
        quiet: Quiet = False,
        debug: Debug = False,
    ) -> None:  # fmt: skip
        from surgeon.laws.saved import read_fit

        if (tokens is None) == (domain_tokens is None):
            raise UsageError("--tokens or --domain-tokens says how long", "surgeon mix optimum", "give one of the two")
        given = {"--max-general-rise": max_general_rise, "--eps": eps, "--general-start": general_start}
        limits = [None if text is None else share_of(flag, text) for flag, text in given.items()]
        numbers = [
            None if text is None else count(flag, text)
            for flag, text in (("--tokens", tokens), ("--domain-tokens", domain_tokens))
        ]
        found = _answer(read_fit(fit), count("--parameters", parameters), *numbers, *limits)
        Output(json, quiet).emit(found, [_sentence(found), *pairs(found)])
        if found["share"] is None:
            raise typer.Exit(DIFFERENCE)


def _answer(
    fit: Fit, parameters: int, tokens: int | None, domain_tokens: int | None, rise: float | None, eps: float | None,
    start: float | None,
) -> dict[str, Any]:  # fmt: skip
    from surgeon.laws.answers import bound_of, optimum, optimum_of_texts

    bound = bound_of(fit, parameters, start, rise, eps)
    told = {} if bound is None else {"general_start": bound[0], "bound": bound[1]}
    if domain_tokens is not None:
        answer = optimum_of_texts(fit, parameters, domain_tokens, None if bound is None else bound[1])
        return answer | told | {"domain_tokens": domain_tokens}
    if bound is None or tokens is None:
        raise UsageError("there is no bound", "surgeon mix optimum", "give --max-general-rise 3% or --eps 0.05")
    return optimum(fit, parameters, tokens, bound[1]) | told


def _sentence(found: dict[str, Any]) -> str:
    if found["share"] is None:
        return "no share of the domain keeps the general loss within the bound"
    if "domain_tokens" in found:
        return f"share {found['share']:.4g}: the least domain loss"
    return f"share {found['share']:.4g}: the largest that keeps the general loss within the bound"
