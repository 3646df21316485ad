"""How far a model's positions reach and how they turn, as its class in transformers reads config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from surgeon.arch.configuration import settings_of
from surgeon.errors import SurgeonError
from surgeon.loading import quiet

ALL = "all"  # the name of the rotary parameters where all blocks share them


@dataclass(frozen=True)
class Positions:
    """length: the longest text that the configuration promises, in tokens. length_key: its name in config.json.
    rope: kind of block (ALL where they share it) -> rotary parameters, spelled as transformers 5 does; empty for a
    class that has none. inner: the key of config.json under which the text model is described, "" for none."""

    length: int | None
    length_key: str
    rope: Mapping[str, Mapping[str, Any]]
    inner: str

    @property
    def by_kind(self) -> bool:
        """Whether kinds of blocks have rotary parameters of their own."""
        return bool(self.rope) and ALL not in self.rope

    def to_json(self) -> dict[str, Any]:
        return {"length": self.length, "rope": {kind: dict(entry) for kind, entry in self.rope.items()} or None}


def read_positions(config: Mapping[str, Any], where: str = "config.json") -> Positions:
    """Raises SurgeonError where transformers does not read the configuration."""
    return positions_of(_settings(config, where), config)


def positions_of(settings: Any, config: Mapping[str, Any]) -> Positions:
    """settings: the object that transformers made of `config`."""
    text = settings.get_text_config()
    inner = "" if text is settings else next((k for k in settings.sub_configs if getattr(settings, k) is text), "")
    held = getattr(text, "rope_parameters", None) or {}
    # the kinds that a class declares (5.24 has a method for it): DeepSeek-V4's entries have names of their own
    declared = getattr(text, "_rope_type_labels", None) or getattr(text, "layer_types", None) or ()
    kinds = [key for key in held if key in declared]
    rope = {kind: _plain(held[kind]) for kind in kinds if held[kind] is not None} if kinds else {ALL: _plain(held)}
    return Positions(
        length=getattr(text, "max_position_embeddings", None),
        length_key=text.attribute_map.get("max_position_embeddings", "max_position_embeddings"),
        rope=rope if held else {},
        inner=inner if isinstance(config.get(inner), Mapping) else "",
    )


def reason_of(error: Exception) -> str:
    """The first line of what a class raised; of a validation, that of the check which failed."""
    lines = str(error.__cause__ or error).strip().strip("\"'").split("\n")
    return lines[0] or type(error).__name__


def _plain(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Without the old name of rope_type, which says the same."""
    return {key: value for key, value in sorted(entry.items()) if key != "type"}


def _settings(config: Mapping[str, Any], where: str) -> Any:
    with quiet():
        try:
            return settings_of(config)
        except Exception as error:  # whatever the class raises
            raise SurgeonError(
                f"transformers does not read this config.json: {reason_of(error)}",
                where,
                "compare it with the config.json of the model's source",
            ) from error
