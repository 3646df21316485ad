"""The `surgeon` command: one file a command under commands/; errors become three lines and an exit code."""

from __future__ import annotations

import atexit
import errno
import gc
import importlib
import pkgutil
import signal
import sys
import threading
import traceback

import typer

from surgeon import __version__
from surgeon.cli import commands
from surgeon.cli.help_tables import cut_nothing
from surgeon.cli.launched import launched
from surgeon.cli.several import lost, say
from surgeon.cli.streams import make_ready, silence
from surgeon.cli.verbs import all_verbs, joined
from surgeon.cli.words import spread
from surgeon.errors import INTERRUPTED, REFUSED, USAGE, SurgeonError, UsageError

# the order of the journey in `surgeon --help`; a file under commands/ that is not named here comes after these
ORDER = (
    "run", "recipes", "inspect", "extract_language_model", "expand_layers", "extend_vocab", "extend_context",
    "attach_adapter", "fold_adapter", "simplify_adapter", "cpt", "average", "merge_task_vectors", "merge",
    "graft_language_model", "evaluate", "verify", "diff", "vectors", "mix", "report", "push", "methods", "cache",
    "apply",
)  # fmt: skip
# typer keeps its copy of click private; the base of its public BadParameter is every error of usage
_TyperUsageError: type[Exception] = typer.BadParameter.__mro__[1]


def build(wanted: str | None = None) -> typer.Typer:
    """The application. Only the command `wanted` is built in full (None: all); the others are names with a help line,
    because their settings take time to import."""
    app = typer.Typer(
        name="surgeon",
        help="Operate on a pre-trained language model: deepen it, give it new words, teach it, merge it.",
        rich_markup_mode="rich",
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback(invoke_without_command=True)
    def top(
        context: typer.Context,
        version: bool = typer.Option(False, "--version", help="Print the version.", is_eager=True),
    ) -> None:
        if version:
            sys.stdout.write(f"surgeon {__version__}\n")
            raise typer.Exit
        if context.invoked_subcommand is None:
            sys.stdout.write(context.get_help() + "\n")

    found = [m.name for m in pkgutil.iter_modules(commands.__path__)]
    for name in [*(n for n in ORDER if n in found), *sorted(n for n in found if n not in ORDER)]:
        module = importlib.import_module(f"surgeon.cli.commands.{name}")
        command = name.replace("_", "-")
        if wanted in (None, command):
            module.register(app)
        else:
            app.command(command, help=module.ABOUT)(_nothing)
    for command, module in all_verbs().items():
        if wanted in (None, command):
            module.register(app)
    return app


def _nothing() -> None:
    """Stands for a command that was not asked for."""


def main(words: list[str] | None = None) -> None:
    """Entry point; exits with 0 done, 1 refused or failed, 2 usage, 3 difference found, 130 interrupted."""
    words = list(sys.argv[1:] if words is None else words)
    make_ready()
    # as after a Ctrl-C, files that were begun are cleared away; of several processes the first one writes them all,
    # and the others have no time for Python while they wait for it
    clears = threading.current_thread() is threading.main_thread() and launched()[0] == 0
    if clears and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    atexit.register(gc.freeze)  # the interpreter need not look for garbage at its end: a tenth of a short command
    sys.exit(_guarded(words))


def _guarded(words: list[str]) -> int:
    debug = "--debug" in words
    silence(words)
    words = joined(words)
    if not words or {"-h", "--help"} & {*words}:
        cut_nothing()
    try:
        app = build(next((w for w in words if not w.startswith("-")), ""))
        code = app(args=spread(words), standalone_mode=False)
        if code == INTERRUPTED:  # typer makes an exit code of the interrupt
            sys.stderr.write("interrupted\n")
        return code if isinstance(code, int) else 0
    except SurgeonError as error:
        if debug:
            traceback.print_exc()
        say(error)
        return error.code
    except _TyperUsageError as error:
        say(_usage(error, words))
        return USAGE
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of stdout went away, as with `| head`
        sys.stderr.close()
        return REFUSED
    except Exception as error:  # noqa: BLE001 - the last guard: people get three lines, --debug gives the rest
        if debug:
            traceback.print_exc()
        say(lost(error) or _unexpected(error))
        return REFUSED


def _usage(error: Exception, words: list[str]) -> UsageError:
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    command = next((w for w in words if not w.startswith("-")), "")
    known = [command] if command in _commands() else []
    return UsageError(message, " ".join(["surgeon", *words]), f"see `{' '.join(['surgeon', *known, '--help'])}`")


def _commands() -> set[str]:
    return {m.name.replace("_", "-") for m in pkgutil.iter_modules(commands.__path__)} | set(all_verbs())


_MENDS = {
    errno.EMFILE: "raise the limit with `ulimit -n`, or give a smaller --threads",
    errno.ENOSPC: "make room there, or write to another disk",
    errno.EISDIR: "give a file in place of the folder",
    errno.EDQUOT: "make room there, or write to another disk",
}


def _unexpected(error: Exception) -> SurgeonError:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = str(error) or type(error).__name__
    if isinstance(error, OSError):
        return SurgeonError(
            f"the system says: {text}",
            str(error.filename or "-"),
            _MENDS.get(error.errno or 0, "check the path and its permissions"),
        )
    return SurgeonError(
        f"unexpected {type(error).__name__}: {text}",
        f"{frame.filename}:{frame.lineno}",
        "run it again with --debug and report the traceback",
    )
