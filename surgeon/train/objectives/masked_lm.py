"""The loss of an encoder: filling in tokens that were hidden."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor

from surgeon.errors import UsageError
from surgeon.train.hook import Run
from surgeon.train.masks import Masks, chooser, masks_of
from surgeon.train.matrices import matrix_of
from surgeon.train.outline import Outline
from surgeon.train.settings import CptSettings, Positive
from surgeon.train.word_worth import of_labels, of_list
from surgeon.train.words import Words

Policy = Literal["random", "whole_word", "entity", "label_informative"]
Share = Annotated[float, Field(ge=0, le=1)]


def CHECK(settings: CptSettings, options: Mapping[str, Any]) -> None:  # noqa: N802 - a trait that depends on the run
    """Refuse options of two policies at once, shares that are more than all, and labels without texts."""
    policy = options["policy"]
    for name, owner in (("entities", "entity"), ("labelled", "label_informative")):
        if options[name] is not None and policy != owner:
            raise UsageError(f"the policy {policy} has no use for {name}", "--objective masked_lm", f"policy={owner}")
    if options["masked"] + options["random"] > 1:
        raise UsageError("masked and random are more than all", "--objective masked_lm", "the rest stays as it is")
    if policy == "label_informative" and options["labelled"] is None:
        raise UsageError(
            "words that say a label need texts with labels", "--objective masked_lm", "add labelled=CORPUS"
        )


def masks(run: Run | Outline, options: Mapping[str, Any]) -> Masks:
    """The masks of a run, which need its tokenizer and no weight. Raises SurgeonError where that has no mask token, or
    does not say where words begin."""
    policy = options["policy"]
    words = None if policy == "random" else Words(run.tokenizer)
    worth: dict[str, float] = {}
    if words is not None and policy == "entity" and options["entities"] is not None:
        worth = of_list(run, words, options["entities"])
    if words is not None and policy == "label_informative":
        worth = of_labels(run, words, options["labelled"], options["label"], int(options["least"]))
    choose = chooser(policy, words, worth, -math.inf if policy == "label_informative" else 0.0)
    rows = matrix_of(run.model.get_input_embeddings()).shape[0]
    shares = options["share"], options["masked"], options["random"]
    return masks_of(run.tokenizer, rows, run.seed, shares, choose, words)


MAKES, CORPORA, FOR_ENCODERS = {"masks": masks}, ("entities", "labelled"), True
FITS = masks


def masked_lm(
    nats: Tensor, *, policy: Policy = "random", share: Annotated[float, Field(gt=0, lt=1)] = 0.15,
    masked: Share = 0.8, random: Share = 0.1, entities: str | None = None, labelled: str | None = None,
    label: str = "label", least: Positive = 5,
) -> Tensor:  # fmt: skip
    """Cross-entropy of the hidden tokens, summed over them, in nats; arithmetic in float32. For encoders alone.

    share: of a document's tokens that are not special, rounded, at least one; special tokens and padding are never
    hidden. Of the hidden ones `masked` become the mask token, `random` another one (any that is not special), and
    the rest stay: 80, 10, 10 as in BERT. Masks are decided by the seed, the step and the row (see
    surgeon.train.masks); the loop divides by the number of hidden tokens of a step. A document is a row of the
    forward pass, so nothing is seen of another one; with --packing concat a window is.
    policy: random, single tokens. whole_word, all tokens of a word. entity, one token of a word, first of those in
    `entities` (a .txt of words and phrases, our stand-in for a tagger with its quotas of each class, whose values are
    not known to us), then of any. label_informative, whole words, first those that say most of a label: PMI over
    `labelled`, records with a text and a number in the field `label`, of words in `least` documents or more.
    Source: Devlin et al. 2019 (1810.04805); entity 2501.05700; label_informative 2401.17514
    """
    return nats
