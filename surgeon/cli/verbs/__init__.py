"""A verb of a command: `surgeon cpt export ...` beside `surgeon cpt MODEL OUT ...`, one file a verb.

verbs/COMMAND/VERB.py is like a file under commands/: EXAMPLES, ABOUT, register(app). The word directly behind the
command is a verb where there is such a file; a model folder of that name is reached as ./VERB.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType


def commands_with_verbs() -> list[str]:
    """The commands that have verbs, as they are written on the command line."""
    return sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(__path__) if m.ispkg)


def verbs(command: str) -> dict[str, ModuleType]:
    """The verbs of a command by their full name, such as "cpt export", sorted; empty for a command without."""
    if command not in commands_with_verbs():
        return {}
    package = importlib.import_module(f"{__name__}.{command.replace('-', '_')}")
    found = sorted(m.name for m in pkgutil.iter_modules(package.__path__))
    return {
        f"{command} {name.replace('_', '-')}": importlib.import_module(f"{package.__name__}.{name}") for name in found
    }


def all_verbs() -> dict[str, ModuleType]:
    """The verbs of all commands by their full name."""
    return {name: module for command in commands_with_verbs() for name, module in verbs(command).items()}


def joined(words: list[str]) -> list[str]:
    """`cpt export ...` with the two as one word, which is how a verb is registered; other calls as they are."""
    if len(words) > 1 and f"{words[0]} {words[1]}" in verbs(words[0]):
        return [f"{words[0]} {words[1]}", *words[2:]]
    return words


def verb_lines(command: str) -> list[str]:
    """What the help of a command says of its verbs, one line each."""
    return [f"surgeon {name} ...  {module.ABOUT}" for name, module in verbs(command).items()]
