"""How well models predict texts: nats per token, bits per byte, on the same documents for every model.

Bits per byte can be compared across tokenizers, nats per token and perplexity cannot.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from surgeon.checkpoint.index import Checkpoint
from surgeon.data.source import Document, parse_corpus
from surgeon.errors import UsageError
from surgeon.loading import Device, Dtype
from surgeon.measure.matrix import check_stages, transfer
from surgeon.model_ref import resolve
from surgeon.progress import SILENT, Progress

if TYPE_CHECKING:
    from surgeon.measure.tasks import Tasks
    from surgeon.train.score import Score

MOST_NATS = math.log(sys.float_info.max)


def evaluate(
    models: Sequence[str], data: Sequence[str] = (), tokens: int | None = None, *, context: int | None = None,
    by_position: bool = False, positions: Sequence[int] | None = None, tasks: Sequence[str] = (),
    task_folder: str | None = None, shots: int | None = None, limit: int | None = None, chat: bool = False,
    batch: int = 8, stages: Sequence[str] = (), device: Device = "auto", dtype: Dtype = "auto",
    text_field: str = "text", lines: bool = False, trust_remote_code: bool = False, progress: Progress = SILENT,
) -> dict[str, Any]:  # fmt: skip
    """Every model on every corpus (`NAME=PATH` or `PATH`); the JSON of the `evaluate` command.

    tokens: take documents of each corpus in order until the first model's tokenizer counts this many; documents are
    taken whole, and the same ones serve every model. context: tokens of a window, at most the model's own
    (default: the model's, up to 4096). Longer documents are read in windows that overlap by half. by_position: adds
    "by_position" to each corpus, the loss by how many tokens stand before (see surgeon.measure.positions);
    positions: the ends of its buckets. tasks and the rest: adds "tasks" to each model (see surgeon.measure.tasks).
    stages: adds "stages" (see surgeon.measure.matrix).
    """
    from surgeon.data.items import prepare, take
    from surgeon.loading import load_model, load_tokenizer, resolve_device, resolve_dtype
    from surgeon.measure.asking import evaluate_tasks
    from surgeon.measure.positions import measure_positions
    from surgeon.measure.tasks import Tasks, check_tokenizer, load_tasks
    from surgeon.train.score import score_documents, window_length

    asked = Tasks(tasks, task_folder, shots, limit, batch, chat, context)
    check_words(models, data, by_position, positions, asked, stages)
    corpora = [parse_corpus(d, text_field=text_field, lines=lines, weighted=False) for d in data]
    place = resolve_device(device)
    refs = [resolve(text) for text in models]  # the last of them is missing before the first one is measured
    for ref in refs:  # what the library would read in its own way, a pickle among them, is refused as everywhere
        Checkpoint.open_model(ref.path)
    questions = load_tasks(asked, progress) if tasks else None
    tokenizers = [load_tokenizer(ref.path, trust_remote_code) for ref in refs]
    for tokenizer in tokenizers if tasks else ():
        check_tokenizer(asked, tokenizer)
    found: list[dict[str, Any]] = []
    chosen: list[list[Document]] = []
    for text, ref, tokenizer in zip(models, refs, tokenizers, strict=True):
        chosen = chosen or [take(corpus, tokenizer, tokens) for corpus in corpora]
        model = load_model(
            ref.path,
            device=place,
            dtype=resolve_dtype(dtype, place),
            trust_remote_code=trust_remote_code,
        )
        window_length(model, context)  # tasks alone would take any
        if ref.adapter is not None:
            from surgeon.adapters.load import put_on

            model = put_on(model, ref.path, ref.adapter.path)
        scores = []
        with progress.task(f"evaluating {ref.name}", len(corpora), "documents") as advance:
            for corpus, held in zip(corpora, chosen, strict=True):
                result = score_documents(model, tokenizer, held, context)
                scores.append({"name": corpus.name} | as_json(result))
                if by_position:
                    items, length = prepare(held, tokenizer), window_length(model, context)
                    found_at = measure_positions(model, items, length, positions, corpus.name)
                    scores[-1]["by_position"] = found_at
                advance(1)
        found.append({"model": text, "corpora": scores})
        if questions is not None:
            progress.say(f"asking {ref.name}: {', '.join(tasks)}")
            found[-1]["tasks"] = evaluate_tasks(model, tokenizer, questions, asked, progress)
    return {"models": found} | ({"stages": transfer({"models": found}, stages)} if stages else {})


def as_json(score: Score) -> dict[str, Any]:
    """The fields of one corpus in the JSON of `evaluate`; the perplexity is None where no float64 holds it."""
    return {
        "documents": score.documents,
        "bytes": score.num_bytes,
        "tokens": score.tokens,
        "nats_per_token": score.nats_per_token,
        "bits_per_byte": score.bits_per_byte,
        "perplexity": math.exp(score.nats_per_token) if score.nats_per_token < MOST_NATS else None,
        "tokens_per_word": score.tokens / max(score.words, 1),
        "tokens_per_byte": score.tokens / score.num_bytes,
    }


def check_words(
    models: Sequence[str], data: Sequence[str], by_position: bool, positions: Sequence[int] | None, tasks: Tasks,
    stages: Sequence[str] = (),
) -> None:  # fmt: skip
    """Raise what can be said against the words before a model is opened."""
    if positions is not None and not by_position:
        raise UsageError("--positions are of --by-position", "--positions", "add --by-position")
    if not models or not (data or tasks.names):
        raise UsageError(
            "evaluate needs models, and data or tasks", "evaluate", "write MODEL ... --data NAME=CORPUS ..."
        )
    if by_position and not data:
        raise UsageError("--by-position is of corpora", "--by-position", "add --data NAME=CORPUS")
    from surgeon.measure.tasks import check_tasks

    check_tasks(tasks)
    names = [parse_corpus(d, weighted=False).name for d in data]
    _distinct(names)
    check_stages(stages, models, names)


def _distinct(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two corpora are called {name!r}", "--data", "name them: NAME=PATH")
