"""Attention that never crosses a document: three ways, and a probe on the model itself that says which ones hold.

mask: the library's own packed mask, found from positions that start again (needs no cache).
segments: a registered attention function that takes the lengths of the segments; no mask is built at all.
rows: a document a row; slower, but it cannot leak.
padded: the same for an encoder, which looks ahead: it is told what is padding.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from surgeon.errors import SurgeonError
from surgeon.train import flash
from surgeon.train.batch import Batch, by_segment, flat
from surgeon.train.segments import NAME, Call, observed, register, rows_alone, segment_arguments

Mode = Literal["mask", "segments", "rows", "padded"]
_PROBE = ((5, 1, 9), (12, 3))  # segments of two probe rows, 15 tokens each
# what a leak changes is hundreds of times above these (measured: 0.02 to 0.7 of the logits' scale)
_BOUND, _HALF_BOUND = 1e-4, 2e-2
_ATTENDING = ("full_attention", "sliding_attention")  # kinds of blocks that call the attention function
# names in configurations of lengths at which some models count from the beginning of the row, not of the document
_COUNTED = re.compile("chunk|compress|floor")
_ERRORS = (TypeError, ValueError, RuntimeError, NotImplementedError, KeyError)


def choose(model: Any, seq_len: int, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> Mode:
    """The fastest way that keeps documents apart on this model, by trying it; sets the model's attention to it.

    device: where it will run (None: where it is), dtype: of the arithmetic there. On a GPU `segments` comes first (a
    flash kernel for variable lengths, tried too: see surgeon.train.flash), on the CPU `mask`. Raises SurgeonError
    where none is right.
    """
    _check_causal(model)
    device = device or next(model.parameters()).device
    order: tuple[Mode, ...] = ("segments", "mask") if device.type == "cuda" else ("mask", "segments")
    stock = model.config._attn_implementation
    for mode in order:
        if by_lengths(model, seq_len, device, dtype) if mode == "segments" else holds(model, mode, seq_len):
            return mode
        model.set_attn_implementation(stock)
    return "rows"


def by_lengths(model: Any, seq_len: int, device: torch.device, dtype: torch.dtype) -> bool:
    """Set the model's attention to that by the lengths of segments; whether it holds, with the windows of the model's
    blocks in rows of `seq_len` tokens and the kernel of the device."""
    register()
    model.set_attn_implementation(NAME)
    if counted(model, "floor|compress"):  # of a row of unknown length: all rows are one here
        return False
    with observed() as calls:
        held = holds(model, "segments")
    # without a call the model's own masks did it: right as well, but in one row of all rows they are its square
    if not held or not calls or not _windows_told(calls, model, seq_len):
        return False
    return flash.choose(calls, device, dtype, dropout=_drops(model))


def _drops(model: Any) -> bool:
    """Whether the configuration has dropout of attention, which no flash kernel by lengths has."""
    settings = model.config.get_text_config().to_dict()
    return any(bool(value) for name, value in settings.items() if re.search("att.*drop", name))


def _check_causal(model: Any) -> None:
    """Refuse a model that sees what stands behind a token, or that cannot read a row of tokens and nothing else: with
    the one, no way of packing is right, and the loss is of tokens that it was shown."""
    where, how = str(model.config.name_or_path), "this architecture is not supported by cpt"
    try:
        held = holds(model, "rows")
        _trains(model)
    except (*_ERRORS, AttributeError, AssertionError, IndexError) as error:
        reason = next(iter(str(error).split("\n")))
        raise SurgeonError(f"{type(model).__name__} cannot read rows of tokens: {reason}", where, how) from error
    if not held:
        raise SurgeonError(
            f"{type(model).__name__} is no causal model: tokens behind a text change what it makes of it", where, how
        )


@torch.no_grad()
def _trains(model: Any) -> None:
    """Run the model as training does: some read rows of certain lengths only then (Reformer)."""
    device, was_training = next(model.parameters()).device, model.training
    try:
        with (
            torch.autocast(device.type, enabled=False),
            torch.random.fork_rng([device] if device.type == "cuda" else []),
        ):
            model.train()
            logits(model, probe(model), "rows")
    finally:
        model.train(was_training)


def choose_padded(model: Any) -> Mode:
    """The way for an encoder, if it holds: a document in a padded row gives what it gives alone.

    Raises SurgeonError where it does not.
    """
    if not holds(model, "padded"):
        raise SurgeonError(
            f"padding changes what {type(model).__name__} makes of a document",
            str(model.config.name_or_path),
            "this encoder is not supported by cpt",
        )
    return "padded"


def arranged(batch: Batch, mode: Mode) -> tuple[Batch, dict[str, Any]]:
    """(the batch in the rows and tokens of the mode, what to give to the model's forward)."""
    if mode == "rows":
        batch = by_segment(batch)
        return batch, {"input_ids": batch.ids}
    if mode == "padded":
        batch = by_segment(batch)
        lengths = torch.tensor(batch.lengths, device=batch.ids.device)
        return batch, {"input_ids": batch.ids, "attention_mask": (batch.positions < lengths[:, None]).long()}
    if mode == "mask":
        return batch, {"input_ids": batch.ids, "position_ids": batch.positions}
    batch = flat(batch)
    extra = segment_arguments(batch.lengths, batch.ids.device)
    return batch, {"input_ids": batch.ids, "position_ids": batch.positions} | extra


def logits(model: Any, batch: Batch, mode: Mode) -> tuple[Tensor, Tensor]:
    """(logits [rows, tokens, V], labels [rows, tokens]) of a batch; rows and tokens are those of the mode."""
    batch, arguments = arranged(batch, mode)
    # without a cache: with one, the library does not look for packed documents
    return model(**arguments, use_cache=False).logits, batch.labels


@contextmanager
def texts() -> Iterator[None]:
    """For passes over rows that hold a text each, without lengths, through a model in whatever mode. Nothing is
    compiled in them: their shapes change from pass to pass, and would make the training's own graphs dynamic."""
    with rows_alone(), uncompiled():
        yield


@contextmanager
def uncompiled() -> Iterator[None]:
    """Compiled blocks run as they are written."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and it takes seconds to load
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


@torch.no_grad()
def holds(model: Any, mode: Mode, seq_len: int = 0) -> bool:
    """Whether packed logits equal those of each document alone, on random tokens through this very model; of rows:
    whether other tokens behind a document leave its logits alone.

    In float32, whatever the run's arithmetic is: in half precision rounding alone changes the logits of a deep model
    by as much as some leaks (2 % of their scale in 20 blocks of 2048). A function that the model's code cannot work
    with raises one of a few known errors, which count as no; with rows they are raised.
    seq_len: of the run's rows. Where the configuration names a length that they reach and the probe does not,
    rows as long as theirs are tried too.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.autocast(next(model.parameters()).device.type, enabled=False):
            if mode == "rows":
                return _unread_behind(model)
            longer = any(sum(_PROBE[0]) < n <= seq_len for n in counted(model))
            probes = [_PROBE, _long(seq_len)] if longer else [_PROBE]
            return all(_same(model, mode, probe(model, rows)) for rows in probes)
    except _ERRORS:
        if mode == "rows":
            raise
        return False
    finally:
        model.train(was_training)


def counted(model: Any, names: str = _COUNTED.pattern) -> list[int]:
    """The lengths in tokens that the configuration names so, at any depth of it."""

    def numbers(value: Any, inside: bool) -> Iterator[int]:
        if isinstance(value, Mapping):
            for key, part in value.items():
                yield from numbers(part, inside or bool(re.search(names, str(key))))
        elif inside and isinstance(value, int) and not isinstance(value, bool):
            yield value

    return list(numbers(model.config.get_text_config().to_dict(), False))


def _long(seq_len: int) -> tuple[tuple[int, ...], ...]:
    first = seq_len // 3 | 1  # odd: where a document begins, nothing else does
    return ((first, seq_len - first),)


def _same(model: Any, mode: Mode, batch: Batch) -> bool:
    packed = logits(model, batch, mode)[0].float()
    if mode == "padded":
        packed, alone = _cut(packed, batch), _one_by_one(model, batch)
    else:
        alone = _cut(logits(model, batch, "rows")[0].float() if mode == "mask" else _alone(model, batch), batch)
    return _near(packed.reshape(alone.shape), alone, model)


def _near(one: Tensor, other: Tensor, model: Any) -> bool:
    bound = _BOUND if next(model.parameters()).dtype == torch.float32 else _HALF_BOUND
    return bool((one - other).abs().max() <= bound * float(other.abs().max()))


def _unread_behind(model: Any) -> bool:
    """Of two passes over rows of one shape, so that experts are chosen and sums are rounded alike in both."""
    batch = by_segment(probe(model))
    lengths = torch.tensor(batch.lengths, device=batch.ids.device)
    vocab = model.get_input_embeddings().weight.shape[0]
    other = torch.where(batch.positions < lengths[:, None], batch.ids, (batch.ids + vocab // 2 + 1) % vocab)
    with texts():
        one, two = (model(input_ids=ids, use_cache=False).logits.float() for ids in (batch.ids, other))
    return _near(_cut(one, batch), _cut(two, batch), model)


def _cut(rows: Tensor, batch: Batch) -> Tensor:
    """The tokens of a batch's segments, out of a row each."""
    return torch.cat([rows[row, :length] for row, length in enumerate(batch.lengths)])


def _one_by_one(model: Any, batch: Batch) -> Tensor:
    """Every segment in a call of its own: nothing is padded, so nothing has to be masked."""
    parts = batch.ids.view(-1).split(list(batch.lengths))
    return torch.cat([model(input_ids=part[None], use_cache=False).logits[0].float() for part in parts])


def _alone(model: Any, batch: Batch) -> Tensor:
    name = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        return logits(model, batch, "rows")[0].float()
    finally:
        model.set_attn_implementation(name)


def probe(model: Any, rows: Sequence[Sequence[int]] = _PROBE) -> Batch:
    """Rows of random tokens, without labels. rows: the lengths of each one's segments, with one sum."""
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    vocab = model.get_input_embeddings().weight.shape[0]
    ids = torch.randint(0, vocab, (len(rows), sum(rows[0])), generator=generator).to(device)
    positions = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in rows]).to(device)
    return Batch(ids, positions, torch.full_like(ids, -100), tuple(n for row in rows for n in row))


def _windows_told(calls: Sequence[Call], model: Any, seq_len: int) -> bool:
    """Whether the calls of a pass, a block each, bring the windows that the configuration says, where a row of
    `seq_len` tokens is longer than they are: the probe is too short to show a window that is left out."""

    def narrow(span: int | None) -> int | None:
        return span if span is not None and span < seq_len else None

    config = model.config.get_text_config()
    if narrow(getattr(config, "attention_chunk_size", None)) is not None:
        return False  # in the library's masks only
    window = narrow(getattr(config, "sliding_window", None))
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    expected = [window if kind == "sliding_attention" else None for kind in kinds if kind in _ATTENDING]
    return window is None or [narrow(call.window) for call in calls] == expected
