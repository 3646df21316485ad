"""The settings of `surgeon evaluate`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from surgeon.data.numbers import parse_count
from surgeon.progress import SILENT, Progress


class EvaluateSettings(BaseModel):
    """Models and corpora to measure; see surgeon.measure.perplexity.evaluate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: list[str] = Field(description="Models: folders or hub ids, MODEL+ADAPTER.")
    data: list[str] = Field([], description="A corpus, NAME=CORPUS; repeatable.")
    tokens: int | None = Field(None, gt=0, description="Whole documents until this many tokens (k, M, B).")
    context: int | None = Field(None, gt=1, description="Tokens of a window, at most the model's own.")
    by_position: bool = Field(
        False, description="Also the loss by position, on windows that documents fill (short ones are left out)."
    )
    positions: list[int] | None = Field(
        None, description="The ends of the buckets of --by-position: 32,64,... [32, 64, 128, ... up to the context]"
    )
    tasks: list[str] = Field(
        [], description="Tasks of lm-eval (pip install 'surgeon[tasks]'): hellaswag,arc_easy,mmlu,..."
    )
    task_folder: str | None = Field(None, description="A folder with tasks (YAML) of your own, beside lm-eval's.")
    shots: int | None = Field(
        None, ge=0, description="Worked examples before each question of a task. [each task's own number]"
    )
    limit: int | None = Field(None, gt=0, description="The first so many questions of each task.")
    chat: bool = Field(False, description="Ask the questions of tasks in the model's chat template.")
    batch: int = Field(8, gt=0, description="Questions of a task at a time.")
    stages: list[str] = Field(
        [],
        description="The corpora that a sequence of trainings learned, in its order (MODELS are the base and the one "
        "behind each): shows forgetting, backward and forward transfer.",
    )
    text_field: str = Field("text", description="The field of .jsonl and .parquet records.")
    lines: bool = Field(False, description="A .txt file holds a document a line.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where to compute.")
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="What to compute in.")
    trust_remote_code: bool = Field(False, description="Run code that the model brings along.")

    @field_validator("tasks", "stages", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        """Also with commas between them."""
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, list | tuple):
            return value
        return [name.strip() for item in value for name in str(item).split(",")]

    @field_validator("tokens", mode="before")
    @classmethod
    def _count(cls, value: Any) -> Any:
        return parse_count(value) if isinstance(value, str) else value


def run_evaluate(settings: EvaluateSettings, progress: Progress = SILENT) -> dict[str, Any]:
    """The JSON of `surgeon evaluate`."""
    from surgeon.measure.perplexity import evaluate

    return evaluate(**settings.model_dump(), progress=progress)
