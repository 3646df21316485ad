"""Which questions are longer than a model takes: lm-eval leaves their beginning out, and warns of every one."""

from __future__ import annotations

import contextlib
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

Cut = dict[str, set[int]]
_WARNINGS = ("Combined length of context", "Left truncation applied")


@contextlib.contextmanager
def counted(wrapped: Any) -> Iterator[Cut]:
    """task -> the numbers of its questions of which something was left out on the left, filled while `wrapped`
    (lm-eval's model, HFLM) is asked inside. In the place of lm-eval's warnings, which are kept back."""
    cut: Cut = defaultdict(set)
    of: dict[Any, list[tuple[str, int]]] = defaultdict(list)  # what is asked -> the questions that ask it
    score, generate = wrapped.loglikelihood, wrapped.generate_until
    by_tokens, encode = wrapped._loglikelihood_tokens, wrapped.tok_batch_encode

    def note(text: Any) -> None:
        for task, question in of.get(text, ()):
            cut[task].add(question)

    def scored(requests: Sequence[Any], *rest: Any, **more: Any) -> Any:
        for request in requests:
            of[tuple(request.args)].append((request.task_name, request.doc_id))
        return score(requests, *rest, **more)

    def generated(requests: Sequence[Any], *rest: Any, **more: Any) -> Any:
        for request in requests:
            of[request.args[0]].append((request.task_name, request.doc_id))
        return generate(requests, *rest, **more)

    def tokens(requests: Sequence[Any], *rest: Any, **more: Any) -> Any:
        for text, context, answer in requests:
            if len(context) + len(answer) > wrapped.max_length + 1:  # lm-eval's rule: the last one is not read
                note(text)
        return by_tokens(requests, *rest, **more)

    def encoded(strings: Sequence[str], *rest: Any, left_truncate_len: int | None = None, **more: Any) -> Any:
        for text in strings:
            if left_truncate_len and len(wrapped.tok_encode(text)) > left_truncate_len:
                note(text)
        return encode(strings, *rest, left_truncate_len=left_truncate_len, **more)

    wrapped.loglikelihood, wrapped.generate_until = scored, generated
    wrapped._loglikelihood_tokens, wrapped.tok_batch_encode = tokens, encoded
    log = logging.getLogger("lm_eval.models.huggingface")

    def others(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(_WARNINGS)

    log.addFilter(others)
    try:
        yield cut
    finally:
        log.removeFilter(others)
