"""`surgeon report`: one offline HTML file with plots, and its numbers as JSON beside it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from surgeon import words
from surgeon.checkpoint.commit import write_atomically
from surgeon.checkpoint.lineage import BlockMap
from surgeon.errors import SurgeonError
from surgeon.report import transfer
from surgeon.report.block_map import strips
from surgeon.report.curves import Line, Training, curves
from surgeon.report.deltas import Deltas, heats
from surgeon.report.forgetting import lost, rows
from surgeon.report.gather import Content, Search, gather
from surgeon.report.plots import (
    drawable,
    eval_svg,
    heat_svg,
    learning_svg,
    lost_svg,
    models_svg,
    scores_svg,
    search_svg,
    training_svg,
)
from surgeon.report.table import change
from surgeon.report.vocabulary import Vocabulary
from surgeon.search import table

TEMPLATE = Path(__file__).with_name("report.html.j2")


@dataclass(frozen=True)
class ReportPaths:
    """The two files of a report."""

    html: Path
    json: Path


def write_report(folder: Path, *, out: Path | None = None, vocabulary: Vocabulary | None = None) -> ReportPaths:
    """Write report.html and report.json into the folder `out` (by default `folder`), replacing an older report.

    folder: one that `surgeon run` wrote (run.json), or a checkpoint with surgeon.json. The same content gives the
    same bytes: the report adds neither the time nor the place of its making. vocabulary: what was measured of an
    extension (by default what the lineage remembers of it). Raises SurgeonError on what cannot be read, and where the
    report cannot be written.
    """
    content = gather(folder)
    if vocabulary is not None:
        content.vocabulary = vocabulary
    target = folder if out is None else out
    paths = ReportPaths(target / "report.html", target / "report.json")
    numbers = json.dumps(finite(content.to_json()), indent=1, allow_nan=False) + "\n"
    page = render(content)
    try:
        target.mkdir(parents=True, exist_ok=True)
        write_atomically(paths.json, numbers)
        write_atomically(paths.html, page)
    except OSError as error:
        raise SurgeonError(
            f"the report cannot be written: {error.strerror}", str(target), "give another folder with --out"
        ) from error
    return paths


def render(content: Content) -> str:
    """The page. Every text of the inputs is escaped by the template engine, and made visible before that."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=_shown, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals.update(words=words, transfer=transfer, strips=strips, change=change)
    environment.globals.update(probe_svg=_probe, heat_svgs=_heats)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    about = [" ".join(paragraph.split()) for paragraph in content.about.split("\n\n")]
    return template.render(
        content=content,
        about=[paragraph for paragraph in about if paragraph],
        trainings=[_drawn(training, i) for i, training in enumerate(content.trainings)],
        searches=[_searched(search, i) for i, search in enumerate(content.searches)],
        vocabulary=_vocabulary(content.vocabulary),
        versions=_versions(content),
    )


def finite(value: Any) -> Any:
    """JSON has no word for numbers that are not finite: they become "nan", "inf" and "-inf"."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: finite(v) for key, v in value.items()}
    return [finite(v) for v in value] if isinstance(value, list | tuple) else value


def _shown(value: Any) -> Any:
    """What the template prints of a value: markup as it is, text made visible, nothing as a dash."""
    if value is None:
        return words.ABSENT
    return words.visible(value) if type(value) is str else value


def _drawn(training: Training, number: int) -> dict[str, Any]:
    """A training as the template takes it: its plots (None where there is nothing to draw), first and last values."""
    drawing = curves(training)
    has_steps = drawable(drawing.loss) or drawable(drawing.lr)
    name = f"t{number}"
    last = training.steps[-1] if training.steps else None
    losses = [s.loss for s in training.steps if s.loss is not None]
    found = training.stability
    forgotten = lost(found, training.evals)
    return {
        "title": training.title,
        "curves": drawing,
        "loss": training_svg(drawing, f"{name}-loss", f"Training loss of {training.title}") if has_steps else None,
        "eval": eval_svg(drawing, f"{name}-eval", f"Held-out corpora during {training.title}")
        if any(drawable(line) for line in drawing.evals)
        else None,
        "forgotten": lost_svg(forgotten, f"{name}-lost", f"What was lost during {training.title}")
        if forgotten
        else None,
        "stability": rows(found),
        "stability_unit": found[0]["unit"] if found else None,
        "facts": [
            ("steps", words.plain(last.step if last else None)),
            ("tokens", words.plain(last.tokens if last else None)),
            ("first loss", words.fixed(losses[0], 4) if losses else words.ABSENT),
            ("last loss", words.fixed(losses[-1], 4) if losses else words.ABSENT),
        ],
        "gaps": sum(not math.isfinite(loss) for loss in losses),
        "settings": words.pairs(training.settings),
    }


def _vocabulary(found: Vocabulary | None) -> dict[str, Any] | None:
    """An extension as the template takes it: its numbers, its plots (None where there is nothing to draw)."""
    if found is None or not found.says_something:
        return None
    places = [float(i) for i in range(len(found.models))]
    lines = [Line(c.name, places, list(c.bits_per_byte)) for c in found.corpora]
    return {
        "found": found,
        "curve": learning_svg(found.curve, "v-curve", "Tokens of the corpus against tokens added")
        if len(found.curve) > 1
        else None,
        "bits": models_svg(found.labels, lines, "v-bits", "Bits per byte of the models on each corpus")
        if lines
        else None,
        "calibration": words.pairs(found.calibration or {}),
    }


def _probe(blocks: BlockMap, number: int) -> Markup:
    """The scores that the copied blocks were chosen by."""
    assert blocks.probe is not None
    copied = sorted({new.source for new in blocks.new})
    label = f"Scores of blocks by {blocks.probe.selector}"
    return scores_svg(blocks.probe, copied, f"b{number}-scores", label)


def _heats(deltas: Deltas, number: int) -> list[Markup]:
    """The maps of one merge."""
    return [heat_svg(heat, f"m{number}-heat{i}", heat.title) for i, heat in enumerate(heats(deltas))]


def _searched(search: Search, number: int) -> dict[str, Any]:
    """A search as the template takes it: its table as on the terminal, and its plot."""
    found = search.to_json()
    names = search.record.names(search.names)
    return {
        "title": search.title,
        "said": table.title(found),
        "formula": found["formula"],
        "columns": table.columns(found),
        "rows": table.rows(found),
        "plot": search_svg(search.record, names, f"s{number}-search", "Losses of the evaluated weights"),
    }


def _versions(content: Content) -> list[tuple[list[str], dict[str, str]]]:
    """Versions of the software, each set once with the checkpoints it made."""
    groups: list[tuple[list[str], dict[str, str]]] = []
    for checkpoint in content.checkpoints:
        for names, found in groups:
            if found == checkpoint.lineage.versions:
                names.append(checkpoint.title)
                break
        else:
            groups.append(([checkpoint.title], checkpoint.lineage.versions))
    return groups
