"""A method is a file: discovery by name, options from the signature, a user's own by `module:function`.

A folder beside the files is a family of methods, FOLDER:NAME: its `named(NAME)` gives the Method and `members()` all
names; neither is asked before a name says so.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar

from surgeon.errors import UsageError, did_you_mean
from surgeon.number import is_finite, misread

# kind -> the package whose files are its methods
KINDS: dict[str, str] = {
    "selector": "surgeon.expand.selectors",
    "fill": "surgeon.expand.fills",
    "init": "surgeon.vocab.inits",
    "adapter": "surgeon.adapters.kinds",
    "merge": "surgeon.merge.methods",
    "sampling": "surgeon.data.samplings",
    "schedule": "surgeon.train.schedules",
    "objective": "surgeon.train.objectives",
    "regularizer": "surgeon.train.regularizers",
    "optimizer": "surgeon.train.optimizers",
    "meta": "surgeon.train.meta",
    "exporter": "surgeon.train.exporters",
    "tracker": "surgeon.train.trackers",
    "law": "surgeon.laws.kinds",
    "kernel": "surgeon.ops.kernels",
}


@dataclass(frozen=True)
class Option:
    """A keyword-only argument of a method: what a person may set with `--option NAME=VALUE`."""

    REQUIRED: ClassVar[Any] = inspect.Parameter.empty  # in place of a default

    name: str
    annotation: Any
    default: Any

    @property
    def required(self) -> bool:
        return self.default is self.REQUIRED


@dataclass(frozen=True)
class Method:
    """A function found by kind and name. `supplied` are its positional arguments, which surgeon gives by name.

    traits: declarations of this method alone, before those of its module.
    """

    kind: str
    name: str
    function: Callable[..., Any]
    supplied: tuple[str, ...]
    options: dict[str, Option]
    traits: Mapping[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        return (inspect.getdoc(self.function) or "").split("\n")[0]

    @property
    def source(self) -> str:
        """The literature reference: the docstring's line that starts with `Source:`, or empty."""
        text = "\n".join(
            filter(None, (inspect.getdoc(self.function), inspect.getdoc(inspect.getmodule(self.function))))
        )
        lines = [line.strip() for line in text.split("\n") if line.strip().startswith("Source:")]
        return lines[0].removeprefix("Source:").strip() if lines else ""

    def trait(self, name: str, default: Any = None) -> Any:
        """A declaration in the method's module, upper case (for example ROWWISE = True)."""
        if name in self.traits:
            return self.traits[name]
        return getattr(inspect.getmodule(self.function), name, default)

    def bind(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Keyword arguments from words or values; an unknown, missing or ill-typed one is refused."""
        self.check_names(given)
        bound = {key: _coerce(self, self.options[key], value) for key, value in given.items()}
        for option in self.options.values():
            if option.required and option.name not in bound:
                raise UsageError(
                    f"{self.kind} {self.name!r} needs the option {option.name!r}",
                    self._place(option.name),
                    f"give {option.name}=VALUE",
                )
        return {name: bound.get(name, option.default) for name, option in self.options.items()}

    def check_names(self, given: Iterable[str], but: Collection[str] = ()) -> None:
        """Raise UsageError on a name that is no option. but: options that a person sets otherwise."""
        known = [name for name in self.options if name not in but]
        for key in given:
            if key not in known:
                hint = did_you_mean(key, known) if known else "it takes no options"
                raise UsageError(f"{self.kind} {self.name!r} has no option {key!r}", self._place(key), hint)

    def _place(self, option: str) -> str:
        """Where an option was given: by --option NAME=VALUE, or behind the method's own name."""
        return f"option {option} of {self.kind} {self.name}"

    def call(self, supply: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
        """The method on the supplied arguments it names; `options` are checked and typed first."""
        missing = [name for name in self.supplied if name not in supply]
        if missing:
            raise UsageError(
                f"{self.kind} {self.name!r} asks for {', '.join(missing)}, which surgeon does not supply here",
                f"{self.function.__module__}.{self.function.__qualname__}",
                did_you_mean(missing[0], supply),
            )
        return self.function(*(supply[name] for name in self.supplied), **self.bind(options))


def names(kind: str) -> list[str]:
    """All method names of a kind, sorted, without importing any of them."""
    return _found(kind, families=False)


def families(kind: str) -> list[str]:
    """The families of a kind, sorted, without importing any of them."""
    return _found(kind, families=True)


def members(kind: str, family: str) -> list[str]:
    """The names of all methods of a family, FAMILY:NAME; imports what they are made of."""
    return [f"{family}:{name}" for name in importlib.import_module(f"{KINDS[kind]}.{family}").members()]


def whole_family(kind: str, family: str) -> Method:
    """A family as one entry of a list; it describes itself and cannot be bound."""
    module = importlib.import_module(f"{KINDS[kind]}.{family}")

    def describe() -> None: ...

    describe.__doc__ = module.__doc__
    return Method(kind, f"{family}:NAME", describe, (), {})


@cache
def get(kind: str, name: str) -> Method:
    """The method of this kind and name, or of a family (FAMILY:NAME); `module:function` names a person's own."""
    if ":" in name:
        module_name, _, function_name = name.partition(":")
        if module_name in families(kind):
            found: Method = importlib.import_module(f"{KINDS[kind]}.{module_name}").named(function_name)
            return found
        try:
            function = getattr(importlib.import_module(module_name), function_name)
        except (ImportError, AttributeError) as error:
            raise UsageError(f"{kind} {name!r} cannot be imported: {error}", name, "check PYTHONPATH") from error
        return _method(kind, name, function)
    if name in families(kind):
        raise UsageError(f"{name} is a family of methods", name, f"say which: {', '.join(members(kind, name))}")
    if name not in names(kind):
        raise UsageError(f"there is no {kind} {name!r}", f"surgeon methods {kind}", did_you_mean(name, names(kind)))
    module = importlib.import_module(f"{KINDS[kind]}.{name}")
    function = getattr(module, name, None)
    if function is None:
        raise UsageError(f"{module.__name__} defines no function {name!r}", str(module.__file__), "name it so")
    return _method(kind, name, function)


def _found(kind: str, families: bool) -> list[str]:
    package = importlib.import_module(KINDS[kind])
    found = [m for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")]
    return sorted(m.name for m in found if m.ispkg == families)


def _method(kind: str, name: str, function: Callable[..., Any]) -> Method:
    parameters = inspect.signature(function).parameters.values()
    # of the options alone: what surgeon supplies may be of types that only a type checker imports
    named = {p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    own = types.SimpleNamespace(__annotations__={n: a for n, a in function.__annotations__.items() if n in named})
    hints = typing.get_type_hints(own, function.__globals__, include_extras=True)  # Annotated types read and check
    supplied = tuple(p.name for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY)
    options = {
        p.name: Option(p.name, hints.get(p.name, str), p.default)
        for p in parameters
        if p.kind is inspect.Parameter.KEYWORD_ONLY
    }
    return Method(kind, name, function, supplied, options)


def _coerce(method: Method, option: Option, value: Any) -> Any:
    """A word (from the command line) or a value (from a recipe) as the annotated type; nothing is guessed."""
    import pydantic

    # YAML 1.1 reads 3e-4 as text, and the shell gives text: numbers and truth values are read from words
    annotation = option.annotation
    if isinstance(value, str) and _is_sequence(annotation):
        value = [part for part in value.split(",") if part]
    if isinstance(value, str) and value.lower() in ("none", "null") and _optional(annotation):
        return None
    try:
        if (word := misread(annotation, value)) is not None:
            raise ValueError(f"{word!r} is not a number")
        found = pydantic.TypeAdapter(annotation).validate_python(value)
        if method.kind != "kernel" and not is_finite(found):  # what a kernel is given was computed
            raise ValueError("it is not finite")
        return found
    except ValueError as error:
        reason = error.errors()[0]["msg"] if isinstance(error, pydantic.ValidationError) else str(error)
        raise UsageError(
            f"{method.kind} {method.name!r}: {option.name}={value!r} is not valid: {reason}",
            method._place(option.name),
            f"give a value of type {type_name(annotation)}",
        ) from error


def type_name(annotation: Any) -> str:
    """An option's type as a person writes it."""
    arguments, origin = typing.get_args(annotation), typing.get_origin(annotation)
    if origin is typing.Annotated:
        return type_name(arguments[0])  # what is behind it checks the value, and is not its type
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(type_name, arguments))
    if origin is typing.Literal:
        return " | ".join(map(str, arguments))
    if annotation is types.NoneType:
        return "None"
    return annotation.__name__ if isinstance(annotation, type) and not arguments else str(annotation)


def _optional(annotation: Any) -> bool:
    return type(None) in typing.get_args(annotation)


def _is_sequence(annotation: Any) -> bool:
    candidates = (annotation,)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        candidates = typing.get_args(annotation)
    return any(typing.get_origin(c) in (list, tuple) for c in candidates)
