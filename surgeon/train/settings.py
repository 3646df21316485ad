"""What a person may set of a training run; every value is checked before anything is read."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from surgeon.data.numbers import Count
from surgeon.data.source import Format
from surgeon.errors import UsageError, did_you_mean
from surgeon.registry import Method, get
from surgeon.train import tracking

Positive = Annotated[Count, Field(gt=0)]

DEFAULT_REPLAY = 0.05  # Ibrahim et al. 2024: removes most of the forgetting under a weak shift at little cost

# settings that do not decide the result: a resumed run may change them
FREE = frozenset(
    {"out", "resume", "keep_state", "keep_states", "save_every", "keep_checkpoints", "eval", "eval_every"}
    | {"eval_tokens", "compile", "checkpointing", "stop_on_divergence", "track"}
)
# of those that decide, what changes the rounding of sums (and the random numbers of dropout), and no more
ROUNDING = frozenset({"micro_batch", "device"})


class CptSettings(BaseModel):
    """Settings of `cpt`. Counts take k, M and B (powers of 1000); budgets are in tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="The model to train; MODEL+ADAPTER with --train adapter.")
    out: str = Field(description="A folder that does not exist yet.")
    data: list[str] = Field(
        min_length=1,
        description="A corpus, NAME=PATH[:WEIGHT] or NAME=hf:org/dataset[:config][@split[:WEIGHT]]; repeatable.",
    )
    tokens: Positive = Field(description="How many tokens to train on, padding counted; as many steps as it takes.")
    replay: list[str] = Field([], description="A corpus of what the model knows, NAME=PATH[:WEIGHT]; repeatable.")
    replay_ratio: float | None = Field(None, ge=0, lt=1, description="Share of all tokens from --replay [0.05].")
    replay_mode: Literal["compute-equivalent", "additive"] = Field(
        "compute-equivalent",
        description="Replayed tokens take the place of new ones, or come on top of --tokens new ones (a longer run).",
    )
    mixture: list[str] = Field(
        [],
        description="A stage of the run with shares of its own, END:NAME=WEIGHT,...: up to END, a fraction of the "
        "run, tokens of the corpora by these weights; repeatable, the last to 1 [the same shares all the time].",
    )
    sampling: str = Field(
        "proportional",
        description="How much of each --data corpus is read where none has a weight: by its size, temperature:alpha=X "
        "(sizes to that power) or unimax:max_epochs=N (as even as can be, none more than N times); `surgeon methods "
        "sampling`.",
    )
    order: str = Field(
        "shuffled",
        description="Of the documents in a corpus: shuffled anew in every epoch, sequential, or ascending:FIELD or "
        "descending:FIELD by a number in every record of --data, with replay shuffled.",
    )
    train: str = Field(
        "full",
        description="full, new-blocks, new-rows, new-blocks+new-rows, adapter, role:ROLE,... (attention.q, mlp, norm, "
        "embedding), or a regular expression over tensor names.",
    )
    seq_len: Positive | None = Field(None, description="Tokens of a row [the model's context, at most 2048].")
    lengths: str | None = Field(
        None,
        description="A length curriculum in place of --seq-len: LENGTH:SHARE,... in ascending order "
        "(4096:0.4,32768:0.6: rows of 4,096 tokens for the first 40 % of the steps, then of 32,768), or LENGTH,... in "
        "equal parts; every step has the same tokens [rows of one length].",
    )
    batch_tokens: Positive | None = Field(
        None, description="Tokens of an optimiser step, at most: whole rows of --seq-len [32 rows]."
    )
    batch_ramp: str | None = Field(
        None,
        description="A batch that grows to --batch-tokens: TOKENS:UNTIL,... (16k:0.1,32k:0.25: 16k tokens a step for "
        "the first tenth of the steps, 32k up to a quarter) [the same all the time].",
    )
    micro_batch: Positive | None = Field(
        None,
        description="Rows of one forward pass; with --lengths of the longest, and as many tokens of shorter ones "
        "[about 4096 tokens on a CPU, 16384 on a GPU].",
    )
    lr: float = Field(1e-4, ge=0, allow_inf_nan=False, description="Peak learning rate.")
    weight_decay: float = Field(
        0.1, ge=0, allow_inf_nan=False, description="Of matrices; norms and biases do not decay."
    )
    betas: tuple[float, float] = Field((0.9, 0.95), description="The optimizer's two betas.")
    clip: float = Field(1.0, ge=0, description="Greatest norm of the gradient, 0 for none.")
    schedule: str = Field("rewarm_cosine", description="How the learning rate moves; `surgeon methods schedule`.")
    objective: str = Field("next_token", description="What is minimised; `surgeon methods objective`.")
    teacher: str | None = Field(
        None,
        description="A model to learn from, for an objective that has a teacher [the model as it is at the start].",
    )
    optimizer: str = Field("adamw", description="`surgeon methods optimizer`.")
    regularize: list[str] = Field([], description="Added to the loss; `surgeon methods regularizer`; repeatable.")
    meta: list[str] = Field(
        [], description="Acts between updates, NAME or NAME:OPTION=VALUE,...; `surgeon methods meta`; repeatable."
    )
    group: list[str] = Field(
        [],
        description="A group of trained tensors, REGEX:lr=FACTOR,weight_decay=X: the first whose expression a name "
        "matches decides; old-blocks, new-blocks or role:ROLE,... in place of REGEX, as in old-blocks:lr=0.01; lr=0 "
        "freezes; repeatable.",
    )
    option: dict[str, Any] = Field({}, description="A method's own option, NAME=VALUE or KIND.NAME=VALUE.")
    eval: list[str] = Field([], description="A corpus to evaluate on, NAME=PATH; repeatable.")
    eval_every: Positive | None = Field(None, description="Steps between evaluations [only before and after].")
    eval_tokens: Positive = Field(20_000, description="Tokens of each eval corpus, in whole documents.")
    save_every: Positive | None = Field(None, description="Steps between saved states [a tenth of the run].")
    keep_checkpoints: Positive | None = Field(
        None,
        description="Keep the newest N of the checkpoints written at --save-every and at the end: whole models in the "
        "stored types, in OUT.run/checkpoints, also when the run is done. For `surgeon average`, so not with --train "
        "adapter (the average of A and of B is not that of BA) [none].",
    )
    keep_states: Positive = Field(
        1,
        description="How many of the newest states OUT.run holds, and one more until a step went well from the last.",
    )
    compile: bool | None = Field(None, description="Compile the blocks [on a GPU].")
    checkpointing: Literal["auto", "none", "blocks"] = Field(
        "auto",
        description="Compute trained blocks again on the way back in place of keeping what they hold [auto: where a "
        "micro-batch would not fit into the GPU].",
    )
    stop_on_divergence: float | None = Field(
        None,
        gt=0,
        description="Stop when the mean loss of about 50 steps has been this many nats above its lowest for 50 steps; "
        "a loss that is not finite always stops [never].",
    )
    track: list[str] = Field(
        [],
        description="Send every number of metrics.jsonl there too, while it runs; `surgeon methods tracker`; "
        "repeatable. Its options are --option tracker.NAME=VALUE.",
    )
    resume: bool = Field(
        False,
        description="Go on with the run whose state is kept in OUT.run, if there is one: it was killed, or told to "
        "stop by SIGTERM or Ctrl-C, which save the step first (a second Ctrl-C does not wait).",
    )
    keep_state: bool = Field(False, description="Keep OUT.run when the run is done.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where to compute.")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Type of the arithmetic; master weights are float32 [float32 on a CPU]."
    )
    seed: int = Field(0, ge=0, lt=1 << 63, description="Decides the order of the data, and dropout.")
    loss_on: Literal["response", "all"] = Field("response", description="What to learn of instruction records.")
    packing: Literal["auto", "split", "whole", "concat"] = Field(
        "auto",
        description="split fills rows, cuts documents at a row's end and keeps attention and positions inside each; "
        "whole cuts none that fit into a row, and pads; concat fills rows as split does, but attention crosses "
        "documents and positions run through the row [split; whole for instruction records, and for encoders].",
    )
    format: Format = Field("auto", description="How .jsonl and .parquet records are read [as the first one].")
    text_field: str = Field("text", description="The field of .jsonl and .parquet records.")
    lines: bool = Field(False, description="A .txt file holds a document a line.")
    trust_remote_code: bool = Field(False, description="Run code that the model brings along.")

    @property
    def replay_share(self) -> float:
        """The share of all tokens that comes from --replay."""
        if self.replay_ratio is not None:
            return self.replay_ratio
        return DEFAULT_REPLAY if self.replay else 0.0

    @property
    def may_replay(self) -> bool:
        """Whether replay may have a share of the run; whether it has, stages of a mixture say."""
        return bool(self.replay) and (bool(self.mixture) or self.replay_share > 0)

    @property
    def all_tokens(self) -> int:
        """The tokens of the run: --tokens, and with additive replay as many more as make its share."""
        if self.replay_mode == "compute-equivalent":
            return self.tokens
        return math.ceil(self.tokens / (1 - Fraction(str(self.replay_share))))

    @property
    def out_path(self) -> Path:
        return Path(self.out)

    @property
    def run_dir(self) -> Path:
        """Where the run keeps its state and metrics until it is done: beside the output."""
        out = self.out_path.absolute()
        return out.with_name(out.name + ".run")

    def saved_every(self, steps: int) -> int:
        """Steps between save points of a run of `steps`."""
        return self.save_every or max(1, steps // 10)

    def deciding(self) -> dict[str, Any]:
        """The settings that decide the result, as plain data."""
        values = {k: v for k, v in self.model_dump(mode="json").items() if k not in FREE}
        return values | {"option": {k: v for k, v in values["option"].items() if not k.startswith("tracker.")}}


_SPEC = re.compile(r"(?P<name>.+?)(:(?P<options>\w+=.*))?")


def methods(settings: CptSettings) -> dict[str, list[tuple[Method, dict[str, Any]]]]:
    """The chosen methods by kind, each with its options: those behind its name (NAME:OPTION=VALUE,...), and those of
    `option`; one that no method takes is refused."""
    words = {
        "sampling": [settings.sampling],
        "schedule": [settings.schedule],
        "objective": [settings.objective],
        "optimizer": [settings.optimizer],
        "regularizer": settings.regularize,
        "meta": settings.meta,
    }
    found = {kind: [_spec(kind, word) for word in given] for kind, given in words.items()}
    found["tracker"] = [(method, {}) for method in tracking.chosen(settings.track)]
    for key, value in settings.option.items():
        kind, dot, name = key.rpartition(".")
        # a tracker's option says its kind: by its name alone it can be told not to decide the result
        kinds = [kind] if dot else [k for k in found if k != "tracker"]
        takers = [held for k, given in found.items() for held in given if name in held[0].options and k in kinds]
        if not takers:
            known = [f"tracker.{o}" if k == "tracker" else o for k in found for m, _ in found[k] for o in m.options]
            raise UsageError(
                f"no method of this run has the option {key!r}", f"--option {key}", did_you_mean(name, known)
            )
        if len(takers) > 1:
            ways = " or ".join(f"{method.kind}.{name}" for method, _ in takers)
            raise UsageError(f"several methods have the option {name!r}", f"--option {key}", f"write {ways}")
        takers[0][1][name] = value
    return {kind: [(method, method.bind(given)) for method, given in held] for kind, held in found.items()}


def _spec(kind: str, word: str) -> tuple[Method, dict[str, Any]]:
    """(method, its options as written) of NAME or NAME:OPTION=VALUE,..."""
    match = _SPEC.fullmatch(word)
    if match is None:
        raise UsageError(f"{word!r} names no method", f"--{kind}", f"`surgeon methods {kind}` lists them")
    options: dict[str, Any] = {}
    for part in (match["options"] or "").split(",") if match["options"] else []:
        key, is_given, value = part.partition("=")
        if not is_given or key in options:
            raise UsageError(f"{part!r} is not OPTION=VALUE, once", f"--{kind} {word}", "write NAME:A=1,B=2")
        options[key] = value
    return get(kind, match["name"]), options
