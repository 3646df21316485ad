"""The steps that led to a model, as a numbered list: what each was done to, what came of it, its settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from surgeon.checkpoint.lineage import BlockMap, Lineage, Parent, RowMap
from surgeon.words import fixed, pairs, visible

_NO_MATTER = ("link",)  # settings that do not decide a byte
_MERGES = ("merge", "merge-task-vectors", "average")


def step_lines(lineage: Lineage) -> list[str]:
    """Markdown: one item a step, the oldest first; a step that two others built on is told once."""
    numbers: dict[str, int] = {}
    lines: list[str] = []
    for digest, step in _in_order(None, lineage):
        if digest is not None and digest in numbers:
            continue
        number = len(numbers) + 1
        numbers[digest or ""] = number
        labels = {p.digest: _label(p, numbers) for p in step.parents}
        lines += _item(number, step, labels)
    return lines


def sources(lineage: Lineage) -> list[Parent]:
    """The models at the beginning, which have no lineage; each once."""
    found: dict[str, Parent] = {}
    for parent in lineage.parents:
        held = sources(parent.lineage) if parent.lineage is not None else [parent]
        found |= {p.digest: p for p in held if p.digest not in found}
    return list(found.values())


def code(text: str) -> str:
    """`text` as code in Markdown, also inside a table."""
    return "`" + visible(text).replace("`", "'").replace("|", "\\|") + "`"


def _in_order(digest: str | None, lineage: Lineage) -> Iterator[tuple[str | None, Lineage]]:
    for parent in lineage.parents:
        if parent.lineage is not None:
            yield from _in_order(parent.digest, parent.lineage)
    yield digest, lineage


def _label(parent: Parent, numbers: Mapping[str, int]) -> str:
    return f"step {numbers[parent.digest]}" if parent.digest in numbers else code(parent.name)


def _item(number: int, step: Lineage, labels: Mapping[str, str]) -> list[str]:
    """One step. labels: what its parents are called, by digest."""
    of = " and ".join(dict.fromkeys(labels.values()))
    joint = "from" if step.operation in _MERGES else "of"
    head = f"{number}. **{step.operation}**" + (f" {joint} {of}" if of else "")
    facts = [*_block_facts(step.blocks), *_row_facts(step.rows), *_other_facts(step)]
    lines = [head + (": " + "; ".join(facts) if facts else "") + "."]
    told = [word for key, value in step.settings.items() for word in _setting(key, value, labels)]
    told += [f"seed {code(str(step.seed))}"] if step.seed else []
    if told:
        lines += ["", f"   Settings: {', '.join(told)}."]
    return [*lines, *_evaluations(step.training), ""]


def _setting(key: str, value: Any, labels: Mapping[str, str]) -> list[str]:
    """Markdown of a setting: nothing, one word, or several of one that has parts. Models are called what they are
    called in the list, with their weights."""
    models = value if isinstance(value, list) else [value]
    if models and all(isinstance(held, Mapping) and held.get("digest") in labels for held in models):
        return [f"{visible(key)} {', '.join(_model(held, labels) for held in models)}"]
    return [f"{visible(name)} {code(text)}" for name, text in pairs({key: _texts(value)}, _NO_MATTER)]


def _model(value: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    text = labels[str(value["digest"])]
    text += f" + {labels.get(str(value['adapter']), 'an adapter')}" if "adapter" in value else ""
    return f"{text} x {visible(str(value['weight']))}" if "weight" in value else text


def _block_facts(blocks: BlockMap | None) -> list[str]:
    if blocks is None:
        return []
    if not blocks.new:
        return [f"{len(blocks.source)} blocks are left"]
    places = ", ".join(str(b.block) for b in blocks.new)
    origins = ", ".join(str(b.source) for b in blocks.new)
    return [f"of {len(blocks.source)} blocks, counted from 0, new are {places}, made from {origins}"]


def _row_facts(rows: RowMap | None) -> list[str]:
    if rows is None:
        return []
    methods = dict.fromkeys((rows.method, rows.method_output))
    return [f"{len(rows.new):,} new tokens, {rows.rows:,} rows", f"their rows by {' and '.join(map(code, methods))}"]


def _other_facts(step: Lineage) -> list[str]:
    facts = []
    if step.context is not None and step.context.length is not None:
        facts.append(f"texts of up to {step.context.length:,} tokens")
    if step.adapter is not None and step.operation == "attach-adapter":
        facts += [f"{key} {text}" for key, text in pairs(step.adapter) if key in ("kind", "parameters")]
    if search := (step.merge or {}).get("search"):  # what it was chosen by is no measure of what was chosen
        texts = ", ".join(code(str(corpus["name"])) for corpus in search["corpora"])
        facts.append(f"weights found by {search['objective']} of the losses on {texts}")
    if step.training is not None:
        training = step.training
        facts.append(f"{training['tokens']:,} tokens in {training['steps']:,} steps")
        facts.append(f"{training['trainable_parameters']:,} trainable parameters")
        data = training.get("data", [])
        # rows that texts do not fill are counted as if all were filled alike
        about = "" if sum(corpus.get("trained_tokens", 0) for corpus in data) == training["tokens"] else "about "
        for corpus in data:
            role = "replay " if corpus.get("replay") else ""
            facts.append(f"{role}{code(str(corpus['name']))} {about}{corpus.get('trained_tokens', 0):,} tokens")
    return facts


def _evaluations(training: Mapping[str, Any] | None) -> list[str]:
    """A table of every corpus that was evaluated: at the first and at the last step."""
    evals = (training or {}).get("eval") or []
    names = dict.fromkeys(str(e["name"]) for e in evals)
    if not names:
        return []
    lines = ["", "   | held-out text | bits a byte before | after |", "   |---|---|---|"]
    for name in names:
        own = sorted((e for e in evals if str(e["name"]) == name), key=lambda e: int(e["step"]))
        before = own[0]["bits_per_byte"] if own[0]["step"] == 0 else None
        lines.append(f"   | {code(name)} | {fixed(before)} | {fixed(own[-1]['bits_per_byte'])} |")
    return lines


def _texts(value: Any) -> Any:
    """Settings in which a text is called by its name; its digest is in the lineage."""
    if isinstance(value, Mapping):
        named = value.keys() == {"name", "digest"}
        return value["name"] if named else {key: _texts(held) for key, held in value.items()}
    return [_texts(held) for held in value] if isinstance(value, list) else value
