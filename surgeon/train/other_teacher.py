"""A teacher that is another model than the one that is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import UsageError
from surgeon.loading import load_model, load_tokenizer
from surgeon.model_ref import ModelRef, resolve
from surgeon.registry import Method
from surgeon.train import attention
from surgeon.train.forward import Forward
from surgeon.train.settings import CptSettings
from surgeon.train.teacher import Teacher

FLAG = "--teacher"


@dataclass(frozen=True)
class OtherModel:
    """A checkpoint that is read as it is."""

    ref: ModelRef
    checkpoint: Checkpoint


def named_teacher(settings: CptSettings, objective: Method, tokenizer: Any) -> OtherModel | None:
    """The model of --teacher, None where there is none. Raises UsageError where the objective has no use for it, or
    it reads other tokens than the model does."""
    if settings.teacher is None:
        return None
    check_teacher(settings.teacher, objective)
    ref = resolve(settings.teacher)
    if ref.adapter is not None:
        raise UsageError(
            "a teacher is a whole model", f"{FLAG} {settings.teacher}", "fold its adapter first: fold-adapter"
        )
    checkpoint = Checkpoint.open_model(ref.path)
    other = load_tokenizer(ref.path, settings.trust_remote_code)
    if other.get_vocab() != tokenizer.get_vocab():
        raise UsageError(
            "the teacher has other tokens than the model", f"{FLAG} {settings.teacher}", "both need one vocabulary"
        )
    return OtherModel(ref, checkpoint)


def check_teacher(teacher: str | None, objective: Method) -> None:
    """Raise UsageError where the objective has no use for a teacher that is given."""
    if teacher is not None and not objective.trait("ANY_TEACHER", False):
        raise UsageError(
            f"the objective {objective.name} does not learn from another model",
            f"{FLAG} {teacher}",
            "leave it out, or choose an objective that does, such as --objective distill",
        )


def check_logits(other: OtherModel, teacher: Any, student: Any) -> None:
    """Raise UsageError where the two models, loaded or not, give logits of other tokens."""
    theirs, ours = (m.config.get_text_config().vocab_size for m in (teacher, student))
    if theirs != ours:
        raise UsageError(
            f"the teacher gives {theirs} logits, the model {ours}",
            f"{FLAG} {other.ref.name}",
            "both need as many rows",
        )


def load_teacher(
    other: OtherModel, student: Any, mode: attention.Mode, seq_len: int, device: torch.device, dtype: torch.dtype,
    trust_remote_code: bool,
) -> Teacher:  # fmt: skip
    """The model, in float32 and without gradients, with the student's way of keeping documents apart.

    Every process has a whole one. Raises UsageError where its logits are not the student's, or it cannot keep
    documents apart in that way.
    """
    model = load_model(other.ref.path, device=device, dtype=torch.float32, trust_remote_code=trust_remote_code)
    model.requires_grad_(False)
    check_logits(other, model, student)
    if mode == "segments":
        held = attention.by_lengths(model, seq_len, device, dtype)
    else:
        held = attention.holds(model, mode, seq_len)
    if not held:
        raise UsageError(
            f"the teacher cannot keep documents apart as the model does ({mode})",
            f"{FLAG} {other.ref.name}",
            "give a teacher of the model's architecture",
        )
    return Teacher(Forward(model, mode), {})
