"""Learning a text and sharing its tokens out among the experts."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from surgeon.data.pack import IGNORED
from surgeon.errors import UsageError
from surgeon.train import attention
from surgeon.train.batch import Batch
from surgeon.train.documents import windows
from surgeon.train.forward import Forward
from surgeon.train.hook import Run
from surgeon.train.outline import Outline
from surgeon.train.strength import Strength

_FLAG, _OF_MODEL = "--objective load_balancing", ("router_aux_loss_coef", "aux_loss_coef")


def of_model(run: Run, options: Mapping[str, Any]) -> tuple[int, float]:
    """(experts of a token, the coefficient: that of the options, or of the model's configuration).

    Raises UsageError where the library has no loss for the model's routers: they are not balanced by one (DeepSeek-V3,
    GLM 4), or there are none.
    """
    found = _by_config(run.model, options)
    if not _routes(run):
        raise _no_loss(run.model)
    return found


def FITS(outline: Outline, options: Mapping[str, Any]) -> None:  # noqa: N802 - a trait that depends on the run
    """Refuse what the model's class and configuration say."""
    _by_config(outline.model, options)


def _no_loss(model: Any) -> UsageError:
    return UsageError(
        f"transformers has no loss that balances routers of {type(model).__name__}", _FLAG, "leave it out"
    )


def _by_config(model: Any, options: Mapping[str, Any]) -> tuple[int, float]:
    config = model.config.get_text_config()
    each = getattr(config, "num_experts_per_tok", None)
    if each is None or not _has_loss(model):
        raise _no_loss(model)
    found = options.get("coefficient")
    if found is None:
        found = next((value for name in _OF_MODEL if (value := getattr(config, name, None)) is not None), None)
    if found is None:
        raise UsageError("the configuration names no coefficient", _FLAG, "give one: --option coefficient=0.001")
    return each, float(found)


def _has_loss(model: Any) -> bool:
    """Whether the library's module of the model's class does; torch and PEFT put classes of their own in front."""
    own = model.get_base_model() if hasattr(model, "peft_config") else model
    return any(hasattr(sys.modules.get(c.__module__), "load_balancing_loss_func") for c in type(own).__mro__)


@torch.no_grad()
def _routes(run: Run) -> bool:
    """Whether a pass gives logits of routers: a configuration can leave all blocks without experts."""
    _, arguments = attention.arranged(attention.probe(run.model), run.forward.mode)
    try:
        with attention.uncompiled():
            found = run.forward.output(arguments, router_logits=True).router_logits
    except IndexError:  # of the library's own loss of no logits; without it the same pass has been made (attention)
        return False
    run.world.reshard(run.model)
    return bool(found)


MAKES, FOR_EXPERTS = {"routers": of_model}, True
NEUTRAL = {"coefficient": 0.0}


def load_balancing(
    forward: Forward, batch: Batch, arguments: Mapping[str, Any], routers: tuple[int, float], *,
    coefficient: Strength | None = None,
) -> Tensor:  # fmt: skip
    """Cross-entropy plus `coefficient` times the balance of the experts: E sum_e f_e P_e, a mean over the blocks.

    Of each window (a row of the run): f_e is the share of its tokens with a label that have expert e among their K,
    P_e the mean of the routers' probabilities over them, softmax in float32; K where all experts have as much, E where
    K are given all. coefficient: that of the model's configuration without. A window counts as often as it has labels,
    so the loop's mean is one over labels.
    transformers takes f and P over all blocks and all tokens of a micro-batch together, so that its loss changes with
    the micro-batch, and one block may make up for another; here it is the same for any micro-batch and number of
    processes. For one window and one block the two are equal. Coefficient 0 is next_token, to the byte.
    Source: Fedus et al. 2021 (2101.03961), equations 4 to 6, a block at a time; by windows as in DeepSeek-V3
    (2412.19437), equations 17 to 20, with a softmax
    """
    each, strength = routers
    if strength == 0:
        return forward.nats(batch, arguments)
    nats, logits = forward.routed(batch, arguments)
    return nats + strength * balance(logits, batch, each)


def balance(logits: Sequence[Tensor], batch: Batch, each: int) -> Tensor:
    """E sum_e f_e P_e of every window times its labels, summed; a mean over the blocks.

    logits: [tokens, E] of every block with experts, tokens as in the batch; each: experts of a token. A scalar,
    float32.
    """
    counts = (batch.labels.reshape(-1) != IGNORED).float()
    numbers, number = windows(batch)
    labels = counts.new_zeros(number).index_add(0, numbers, counts)
    found = []
    for block in logits:
        likely = block.reshape(len(counts), -1).float().softmax(-1)
        chosen = torch.zeros_like(likely).scatter_(1, likely.topk(each, dim=-1).indices, 1.0)
        f, p = (
            likely.new_zeros(number, likely.shape[1]).index_add(0, numbers, values * counts[:, None])
            for values in (chosen, likely)
        )
        # f / labels times p / labels, times labels; a window without labels has zeros in both
        found.append(likely.shape[1] * ((f * p).sum(-1) / labels.clamp(min=1)).sum())
    return torch.stack(found).mean()
