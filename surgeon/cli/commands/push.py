"""surgeon push."""

from __future__ import annotations

from typing import Annotated

import typer

from surgeon.cli.interrupted import ends_within
from surgeon.cli.options import Debug, Json, Quiet
from surgeon.cli.output import Output
from surgeon.cli.words import example_text

EXAMPLES = (
    "surgeon push deep my-org/deep --private --dry-run",
    "surgeon push adapter my-org/adapter --base my-org/deep --dry-run",
)
PATIENCE = 3.0  # seconds for taking a branch away again after a Ctrl-C
ABOUT = (
    "Upload what surgeon wrote to the Hugging Face hub, in one commit, after its bytes were checked against its "
    "lineage: weights, tokenizer, model card (README.md, as you edited it), and surgeon.json without the places of its "
    "parents on this machine. A repository that is not there is made; one that holds these very "
    "files is left as it is. --dry-run checks and lists, and sends nothing."
)


def register(app: typer.Typer) -> None:
    @app.command("push", help=ABOUT, epilog=example_text(EXAMPLES))
    def push(
        model: Annotated[str, typer.Argument(metavar="MODEL", help="A folder of surgeon.", show_default=False)],
        repo: Annotated[str, typer.Argument(metavar="REPO", help="ORG/NAME on the hub.", show_default=False)],
        private: Annotated[bool, typer.Option("--private", help="A new repository is for its owner alone.")] = False,
        revision: Annotated[
            str | None,
            typer.Option(
                "--revision", metavar="BRANCH", help="A branch, made if it is not there.", show_default="main"
            ),
        ] = None,
        message: Annotated[
            str | None,
            typer.Option("--message", metavar="TEXT", help="Of the commit.", show_default="the operation's name"),
        ] = None,
        base: Annotated[
            str | None,
            typer.Option(
                "--base",
                metavar="ORG/NAME",
                help="Of an adapter: its model on the hub, named in place of the folder.",
                show_default=False,
            ),
        ] = None,
        force: Annotated[
            bool, typer.Option("--force", help="Replace what the repository holds, as a whole, in the same commit.")
        ] = False,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and list; nothing is sent or asked.")] = False,
        json: Json = False,
        quiet: Quiet = False,
        debug: Debug = False,
    ) -> None:
        from surgeon.hub.push import push as send
        from surgeon.hub.upload import prepare
        from surgeon.model_ref import resolve_plain

        output = Output(json, quiet)
        upload = prepare(resolve_plain(model, "an upload").path, repo, output.progress(), base)
        if dry_run:
            sizes = {name: len(held) if isinstance(held, bytes) else held.stat().st_size
                     for name, held in upload.files.items()}  # fmt: skip
            found = {"repo": repo, "revision": revision or "main", "files": sizes, "bytes": upload.nbytes,
                     "left": list(upload.left)}  # fmt: skip
            output.emit(found)
            return
        with ends_within(PATIENCE):
            found = send(upload, private=private, revision=revision, message=message, force=force)
        if not found["sent"]:
            output.progress().say(f"{repo} holds these files already: nothing was sent")
        output.emit(found)
