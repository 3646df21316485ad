"""What a person may set of a training run; every value is checked before anything is read."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from surgeon.data.numbers import Count
from surgeon.data.source import Format
from surgeon.errors import UsageError, did_you_mean
from surgeon.registry import Method, get

Positive = Annotated[Count, Field(gt=0)]

DEFAULT_REPLAY = 0.05  # Ibrahim et al. 2024: removes most of the forgetting under a weak shift at little cost

# settings that do not decide the result: a resumed run may change them
FREE = frozenset(
    {"out", "resume", "keep_state", "save_every", "keep_checkpoints", "eval", "eval_every", "eval_tokens"}
)


class CptSettings(BaseModel):
    """Settings of `cpt`. Counts take k, M and B (powers of 1000); budgets are in tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="The model to train; MODEL+ADAPTER with --train adapter.")
    out: str = Field(description="A folder that does not exist yet.")
    data: list[str] = Field(
        min_length=1,
        description="A corpus, NAME=PATH[:WEIGHT] or NAME=hf:org/dataset[:config][@split[:WEIGHT]]; repeatable.",
    )
    tokens: Positive = Field(description="How many tokens to train on; as many steps as it takes to reach them.")
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
    order: str = Field(
        "shuffled",
        description="Of the documents in a corpus: shuffled anew in every epoch, sequential, or ascending:FIELD or "
        "descending:FIELD by a number in every record.",
    )
    train: str = Field(
        "full", description="full, new-blocks, new-rows, adapter, or a regular expression over tensor names."
    )
    seq_len: Positive | None = Field(None, description="Tokens of a row [the model's context, at most 2048].")
    batch_tokens: Positive | None = Field(
        None, description="Tokens of an optimiser step, at most: whole rows of --seq-len [32 rows]."
    )
    micro_batch: Positive | None = Field(
        None, description="Rows of one forward pass [about 4096 tokens on a CPU, 16384 on a GPU]."
    )
    lr: float = Field(1e-4, ge=0, description="Peak learning rate.")
    weight_decay: float = Field(0.1, ge=0, description="Of matrices; norms and biases do not decay.")
    betas: tuple[float, float] = Field((0.9, 0.95), description="The optimizer's two betas.")
    clip: float = Field(1.0, ge=0, description="Greatest norm of the gradient, 0 for none.")
    schedule: str = Field("rewarm_cosine", description="How the learning rate moves; `surgeon methods schedule`.")
    objective: str = Field("next_token", description="What is minimised; `surgeon methods objective`.")
    optimizer: str = Field("adamw", description="`surgeon methods optimizer`.")
    regularize: list[str] = Field([], description="Added to the loss; `surgeon methods regularizer`; repeatable.")
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
    resume: bool = Field(False, description="Go on with the run whose state is kept in OUT.run, if there is one.")
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
        "documents and positions run through the row [split; whole for instruction records].",
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
        return {k: v for k, v in self.model_dump(mode="json").items() if k not in FREE}


def methods(settings: CptSettings) -> dict[str, list[tuple[Method, dict[str, Any]]]]:
    """The chosen methods by kind, each with its options out of `option`; an option that no method takes is refused."""
    chosen = {
        "schedule": [get("schedule", settings.schedule)],
        "objective": [get("objective", settings.objective)],
        "optimizer": [get("optimizer", settings.optimizer)],
        "regularizer": [get("regularizer", name) for name in settings.regularize],
    }
    given: dict[tuple[str, str], dict[str, Any]] = {(k, m.name): {} for k, found in chosen.items() for m in found}
    for key, value in settings.option.items():
        kind, dot, name = key.rpartition(".")
        takers = [m for k, found in chosen.items() for m in found if name in m.options and (not dot or k == kind)]
        if not takers:
            known = [o for found in chosen.values() for m in found for o in m.options]
            raise UsageError(
                f"no method of this run has the option {key!r}", f"--option {key}", did_you_mean(name, known)
            )
        if len(takers) > 1:
            kinds = " or ".join(f"{m.kind}.{name}" for m in takers)
            raise UsageError(f"several methods have the option {name!r}", f"--option {key}", f"write {kinds}")
        given[takers[0].kind, takers[0].name][name] = value
    return {k: [(m, m.bind(given[k, m.name])) for m in found] for k, found in chosen.items()}
