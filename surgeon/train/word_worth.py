"""What a word is worth to a mask: whether it is one of a list, or how much it says of a label."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from surgeon.data.order import scores
from surgeon.data.source import parse_corpus
from surgeon.errors import SurgeonError
from surgeon.train.hook import Run
from surgeon.train.outline import Outline
from surgeon.train.probes import text_of
from surgeon.train.words import Words


def of_list(run: Run | Outline, words: Words, path: str) -> dict[str, float]:
    """1 for every word of a corpus (a .txt file of entities, say): a phrase counts by its words, as the tokenizer
    spells them, with or without capitals as it has them."""
    text = text_of(run, path)
    found = [word for word in words.spelt(np.asarray(text.ids)) if word]
    if not found:
        raise SurgeonError("the list holds no word", path, "write words or phrases, one a line")
    return dict.fromkeys(found, 1.0)


def of_labels(run: Run | Outline, words: Words, path: str, field: str, least: int) -> dict[str, float]:
    """max over labels y of PMI(word; y) = log p(word, y) / (p(word) p(y)), in nats, over the documents of a corpus.

    A word counts once a document. field: of every record, a number that says its label. least: a word in fewer
    documents has no worth (PMI is greatest for the rarest ones); the value and the maximum are ours.
    Source: Uppaal et al. 2024 (2401.17514), words that are informative for the label
    """
    corpus = parse_corpus(path, weighted=False)
    text = text_of(run, path)
    labels = scores(corpus, field, text.num_documents)
    known = np.unique(labels).tolist()
    if len(known) < 2:
        raise SurgeonError("all records have one label", path, f"give two or more in the field {field!r}")
    seen: Counter[str] = Counter()
    joint: Counter[tuple[str, float]] = Counter()
    for number, label in enumerate(labels.tolist()):
        held = set(words.spelt(np.asarray(text.ids[text.offsets[number] : text.offsets[number + 1]])))
        seen.update(held)
        joint.update((word, label) for word in held)
    total, of_label = len(labels), Counter(labels.tolist())
    found: dict[str, float] = {}
    for (word, label), together in joint.items():
        if seen[word] >= least:
            value = math.log(together * total / (seen[word] * of_label[label]))
            found[word] = max(value, found.get(word, -math.inf))
    return found
