"""Learned tokens against two other ways to get them, on the same text.

ours: the tokenizer's own merges continued (surgeon.vocab.learn). fresh: a vocabulary that BpeTrainer of tokenizers
learns from nothing on the text, with the tokenizer's own pre-tokenizer, appended with its merges. add_tokens: our
tokens handed to `add_tokens`. Run:
    python benchmarks/vocab_learning.py --tokenizer DIR --corpus A.jsonl --add 2000 --eval B.jsonl --old C.jsonl
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from surgeon.data.source import documents, parse_corpus
from surgeon.errors import SurgeonError
from surgeon.vocab.learn import learn
from surgeon.vocab.token_text import token_text
from surgeon.vocab.tokenizer_json import TokenizerFile, all_splits


def texts(paths: Iterable[str], limit: int | None = None) -> list[str]:
    """The documents of the corpora, up to `limit` bytes of each."""
    found: list[str] = []
    for path in paths:
        size = 0
        for document in documents(parse_corpus(path)):
            if document.text is None or (limit is not None and size >= limit):
                break
            found.append(document.text)
            size += len(document.text.encode("utf-8"))
    return found


def sentences(corpus: list[str]) -> list[str]:
    return [s for text in corpus for s in text.replace(". ", ".\n").split("\n") if s.strip()]


def used_time() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def timed(run: Callable[[], Any]) -> tuple[Any, float, float]:
    wall, cpu = time.perf_counter(), used_time()
    found = run()
    return found, time.perf_counter() - wall, used_time() - cpu


def fresh(old: TokenizerFile, corpus: list[str], add: int) -> tuple[list[str], list[tuple[str, str]]]:
    """`add` tokens of a vocabulary learned from nothing that the old one lacks, and the merges that make them."""
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.trainers import BpeTrainer

    size = add * 2
    while True:
        tokenizer = Tokenizer(BPE())
        if old.byte_level:
            loaded = old.load()
            tokenizer.normalizer = loaded.normalizer or None  # type: ignore[assignment]
            tokenizer.pre_tokenizer = loaded.pre_tokenizer
            letters = ByteLevel.alphabet()
        else:
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
            letters = []
        trainer = BpeTrainer(vocab_size=size + 8000, initial_alphabet=letters, show_progress=False, min_frequency=2)
        tokenizer.train_from_iterator(corpus, trainer)
        model = json.loads(tokenizer.to_str())["model"]
        pairs = [(left, right) for left, right in model["merges"]]
        singles = [t for t in model["vocab"] if len(t) == 1 and t not in old.vocab]
        tokens = list(dict.fromkeys([*singles, *(a + b for a, b in pairs if a + b not in old.vocab)]))
        if len(tokens) >= add or len(pairs) < size:
            break
        size *= 2
    if len(tokens) < add:
        raise SurgeonError(f"a fresh vocabulary gives only {len(tokens)} tokens", "--add", "ask for fewer")
    chosen = tokens[:add]
    known = {*old.vocab, *chosen}
    have = set(old.merges)
    merges = [(a, b) for a, b in pairs if {a, b, a + b} <= known and (a, b) not in have]
    return chosen, all_splits(chosen, old) if old.by_pieces else merges


def measure(name: str, old: TokenizerFile, tokenizer: Any, new: list[str], data: argparse.Namespace) -> dict[str, Any]:
    """tokenizer: of tokenizers, extended. Per cent where the name says so."""
    first = old.next_id
    held = [e.ids for e in tokenizer.encode_batch(data.eval_texts, add_special_tokens=False)]
    ids = [i for row in held for i in row]
    before = old.load()
    was = before.encode_batch_fast(data.old_texts, add_special_tokens=False)
    now = tokenizer.encode_batch_fast(data.old_texts, add_special_tokens=False)
    lines = [*data.eval_lines, *data.old_texts]
    came_back = [t for t in lines if before.decode(before.encode(t, add_special_tokens=False).ids) == t]
    back = sum(tokenizer.decode(tokenizer.encode(t, add_special_tokens=False).ids) == t for t in came_back)
    return {
        "way": name,
        "tokens_per_word": len(ids) / data.num_words,
        "bytes_per_token": data.num_bytes / len(ids),
        "unreachable": _unreachable(tokenizer, old, new),
        "used_per_cent": 100 * len({i for i in ids if i >= first}) / max(len(new), 1),
        "old_text_identical_per_cent": 100 * sum(a.ids == b.ids for a, b in zip(was, now, strict=True)) / len(was),
        "round_trip_per_cent": 100 * back / len(came_back),
    }


def _unreachable(tokenizer: Any, old: TokenizerFile, tokens: list[str]) -> int:
    """Tokens whose text the bare model cuts into pieces, and that are no added token found in it either."""
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    lost = [token_text(old, t) for t in tokens if len(tokenizer.model.tokenize(t)) != 1]
    return sum(not (t in added and len(tokenizer.encode(t, add_special_tokens=False).ids) == 1) for t in lost)


def compare(data: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from tokenizers import Tokenizer

    old = TokenizerFile.open(Path(data.tokenizer))
    corpus = texts(data.corpus, data.limit)
    yield measure("old", old, old.load(), [], data) | {"seconds": 0.0, "cpu_seconds": 0.0}
    keep = texts(data.keep, data.limit) if data.keep else None
    ways: list[tuple[str, dict[str, Any]]] = [("ours", {}), ("ours, script", {"script": "auto"})]
    if keep:
        ways += [("ours, keep", {"keep": keep}), ("ours, script, keep", {"script": "auto", "keep": keep})]
    ours: list[str] = []
    for name, options in ways:
        found, wall, cpu = timed(lambda o=options: learn(old, corpus, data.add, **o))  # type: ignore[misc]
        tokens = list(found.tokens)
        ours = ours or tokens
        about = {"seconds": wall, "cpu_seconds": cpu, "script": found.script, "banned": found.banned}
        yield measure(name, old, old.extended(tokens, found.merges).load(), tokens, data) | about
    (tokens, merges), wall, cpu = timed(lambda: fresh(old, corpus, data.add))
    about = {"seconds": wall, "cpu_seconds": cpu}
    yield measure("fresh, appended", old, old.extended(tokens, merges).load(), tokens, data) | about
    plain = Tokenizer.from_str(old.load().to_str())  # one of its own: what load() gives may be shared
    _, wall, cpu = timed(lambda: plain.add_tokens([token_text(old, t) for t in ours]))
    yield measure("add_tokens", old, plain, ours, data) | {"seconds": wall, "cpu_seconds": cpu}


def speed(tokenizer: str, corpora: list[str], add: int, size: int) -> dict[str, Any]:
    """One whole call of learn() on `size` bytes, an equal share of every corpus."""
    old = TokenizerFile.open(Path(tokenizer))
    loaded = [texts([path]) for path in corpora]
    sizes = [[len(t.encode("utf-8")) for t in text] for text in loaded]
    share = min(1.0, size / sum(map(sum, sizes)))
    corpus: list[str] = []
    for text, lengths in zip(loaded, sizes, strict=True):
        room = share * sum(lengths)
        for t, length in zip(text, lengths, strict=True):
            if room <= 0:
                break
            corpus.append(t)
            room -= length
    del loaded
    found, wall, cpu = timed(lambda: learn(old, corpus, add))
    return {
        "tokenizer": Path(tokenizer).name, "bytes": sum(len(t.encode("utf-8")) for t in corpus), "add": add,
        "seconds": wall, "cpu_seconds": cpu, "load": os.getloadavg()[0],
        "tokens_before": found.tokens_before, "tokens_after": found.tokens_after,
        "peak_GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }  # fmt: skip


def show(title: str, rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(title=title)
    for name in names:
        table.add_column(
            name.replace("_per_cent", " %").replace("_", " "), justify="left" if name == "way" else "right"
        )
    for row in rows:
        values = (row.get(name) for name in names)
        table.add_row(*(f"{v:,.2f}" if isinstance(v, float) else "" if v is None else str(v) for v in values))
    Console(width=160).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True, help="a folder with tokenizer.json")
    parser.add_argument("--corpus", nargs="+", required=True, help="texts to learn from")
    parser.add_argument("--add", type=int, required=True, help="how many tokens")
    parser.add_argument("--eval", nargs="+", help="held-out texts of the same kind")
    parser.add_argument("--old", nargs="+", help="texts of the old language that nothing was learned from or kept for")
    parser.add_argument("--keep", nargs="+", help="texts of the old language to be encoded as before")
    parser.add_argument("--limit", type=int, help="bytes to take of each corpus to learn from or to keep")
    parser.add_argument("--speed", type=int, metavar="BYTES", help="only time learn() on so much of the corpora")
    parser.add_argument("--json", type=Path, help="add the result to this file")
    data = parser.parse_args()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, " + ", ".join(
        f"{name} {version(name)}" for name in ("tokenizers", "numpy", "regex")
    )
    print(machine)
    command = " ".join(["python", *sys.argv])
    if data.speed:
        rows = [speed(data.tokenizer, data.corpus, data.add, data.speed)]
    else:
        if not (data.eval and data.old):
            parser.error("--eval and --old are needed, or --speed")
        corpus = texts(data.eval)
        data.eval_texts, data.eval_lines = corpus, sentences(corpus)[:4000]
        data.num_words = sum(len(t.split()) for t in corpus)
        data.num_bytes = sum(len(t.encode("utf-8")) for t in corpus)
        data.old_texts = sentences(texts(data.old))
        rows = list(compare(data))
    show(f"{Path(data.tokenizer).name}, {', '.join(Path(c).stem for c in data.corpus)}, {data.add:,} tokens", rows)
    if data.json:
        found = json.loads(data.json.read_text(encoding="utf-8")) if data.json.exists() else []
        found = [f for f in found if f["command"] != command] + [
            {"command": command, "machine": machine, "rows": rows}
        ]
        data.json.parent.mkdir(parents=True, exist_ok=True)
        data.json.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
