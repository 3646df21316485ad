"""The proof for a family that nobody declared: the same expansion of a tiny model of the same configuration.

The tiny model has the depth, the kinds of blocks and every rule of the real one, and random parameters; its logits
and its greedy generation must be bit for bit the same before and after, in float32 and bfloat16.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgeon.arch.config_blocks import remap_blocks
from surgeon.arch.configuration import settings_of
from surgeon.arch.family import Family, family_of
from surgeon.arch.meta import names_in_memory
from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError
from surgeon.expand.fill import Filled
from surgeon.expand.fills.auto import auto
from surgeon.expand.layout import Placed
from surgeon.expand.post_norms import find_post_norms, with_post_norms
from surgeon.expand.shrink import probe_ids, shrink
from surgeon.ops.plan import Apply, Zeros

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16")
Fill = Callable[[Family, int], Filled]


def prove(checkpoint: Checkpoint, family: Family, placed: Sequence[Placed], fill: Fill = auto) -> Family:
    """`family`, after its expansion by `placed` has been shown exact on a tiny model; with its post-norms where it
    has any. Raises SurgeonError with the measured difference where it is not, or where no tiny model can be built."""
    where = str(checkpoint.path)
    _same_settings(checkpoint.config, family, [block.source for block in placed], where)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        small = _tiny(checkpoint, family, Path(folder) / "tiny", where)
        _same_parts(family, small, where)
        with _any_failure(family.name, where):
            before = _outputs(Path(folder) / "tiny", where)
            found = find_post_norms(Path(folder) / "tiny", small) if family.declaration.derived else []
        if found:
            family = replace(family, declaration=with_post_norms(family.declaration, found))
            small = replace(small, declaration=with_post_norms(small.declaration, found))
        deeper = _expanded(Path(folder) / "tiny", small, placed, fill, Path(folder) / "deeper")
        with _any_failure(family.name, where):
            after = _outputs(deeper, where)
        _same_outputs(before, after, family.name, where)
    return family


def _same_settings(config: Mapping[str, Any], family: Family, source: Sequence[int], where: str) -> None:
    """What the class takes of itself for keys that config.json does not have is the same for the deeper model: the
    tiny model, which is saved with every key, would not show it."""
    whole = settings_of(config).to_dict()
    ours = settings_of(remap_blocks(config, source, family)).to_dict()
    theirs = settings_of(remap_blocks(whole, source, family)).to_dict()
    for key in theirs:
        if ours.get(key) != theirs[key]:
            raise _unproved(
                family.name, f"config.json has no {key!r}, and what its class takes does not follow", where
            )


def _tiny(checkpoint: Checkpoint, family: Family, folder: Path, where: str) -> Family:
    """Save a tiny random model of the same configuration, in the layout of the checkpoint, and open it."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    try:
        settings = settings_of(shrink(settings_of(checkpoint.config).to_dict()))
        model = AutoModelForCausalLM.from_config(settings, dtype=torch.float32)
    except Exception as error:  # whatever the class raises, there is no proof
        raise _unproved(checkpoint.config["model_type"], f"no tiny model can be built: {error}", where) from error
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in sorted(model.state_dict(keep_vars=True).items()):
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator)
                tensor.copy_(noise * 0.2) if tensor.ndim > 1 and "conv" not in name else tensor.add_(noise * 0.1)
    model.save_pretrained(folder)
    small = family_of(Checkpoint.open(folder))
    renamed = names_in_memory(model, sorted(set(family.names) - set(small.names)))
    if renamed:  # the checkpoint has names that transformers reads and would not write
        state = load_file(folder / "model.safetensors")
        state = {renamed.get(name, name): tensor for name, tensor in state.items()}
        save_file(state, folder / "model.safetensors", {"format": "pt"})
        small = family_of(Checkpoint.open(folder))
    if _kinds(small, 0) != _kinds(family, 0) and any("experts" in part for part in family.declaration.parts):
        # the checkpoint holds the experts of a block as one tensor, as the model does in memory
        state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        if small.head is None:
            state.pop(f"{small.declaration.head}.weight", None)
        save_file(state, folder / "model.safetensors", {"format": "pt"})
        small = family_of(Checkpoint.open(folder))
    return small


def _same_parts(family: Family, small: Family, where: str) -> None:
    """The checkpoint has, block for block, the parts of the model that is tested in its stead."""
    for block in range(family.depth):
        ours, theirs = _kinds(family, block), _kinds(small, block)
        if ours != theirs:
            differing = sorted(ours ^ theirs)[0]
            raise _unproved(family.name, f"block {block} of its class differs in the part {differing!r}", where)


def _kinds(family: Family, block: int) -> set[str]:
    units = (family.unit(name) for name in family.blocks[block])
    return {re.sub(r"(?<=\.)\d+(?=\.|$)", "{n}", f"{unit.part}.{unit.leaf}") for unit in units}


def _expanded(tiny: Path, family: Family, placed: Sequence[Placed], fill: Fill, out: Path) -> Path:
    from safetensors.torch import load_file, save_file

    old = load_file(tiny / "model.safetensors")
    new = {name: old[name] for name in family.outside()}
    for number, block in enumerate(placed):
        sources = fill(family, block.source).sources if block.new else {}
        for name in family.blocks[block.source]:
            source = sources.get(name)
            value = old[name].clone()
            if isinstance(source, Zeros):
                value.zero_()
            elif isinstance(source, Apply):
                value.fill_(source.options["value"])
            new[family.rename(name, number)] = value
    out.mkdir()
    config = json.loads((tiny / "config.json").read_text(encoding="utf-8"))
    config = remap_blocks(config, [block.source for block in placed], family)
    (out / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file({name: tensor.contiguous() for name, tensor in new.items()}, out / "model.safetensors", {"format": "pt"})
    return out


def _outputs(folder: Path, where: str) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """dtype -> logits [2, 24, V] of a probe longer than the windows, and tokens generated with the cache."""
    import torch
    from transformers import AutoModelForCausalLM

    ids = probe_ids()
    found = {}
    for dtype in DTYPES:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, dtype), output_loading_info=True
        )
        wrong = [name for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in info[kind]]
        if wrong:
            raise _unproved(
                model.config.model_type, f"the tiny model loads without {sorted(map(str, wrong))[0]}", where
            )
        with torch.inference_mode():
            logits = model.eval()(ids).logits
            generated = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, use_cache=True
            )
        found[dtype] = (logits, generated)
    return found


def _same_outputs(before: Mapping[str, Any], after: Mapping[str, Any], name: str, where: str) -> None:
    import torch

    for dtype in DTYPES:
        (old, old_ids), (new, new_ids) = before[dtype], after[dtype]
        if not bool(old.isfinite().all()) or old.float().std() < 1e-3:
            raise _unproved(name, "the tiny model's logits say nothing", where)
        if not torch.equal(old, new):
            difference = float((old.double() - new.double()).abs().max())
            raise _unproved(name, f"on a tiny model the logits differ by up to {difference:.2g} ({dtype})", where)
        if not torch.equal(old_ids, new_ids):
            raise _unproved(name, f"on a tiny model generation with the cache differs ({dtype})", where)


@contextmanager
def _any_failure(name: str, where: str) -> Iterator[None]:
    """Whatever a class raises on a tiny model, there is no proof."""
    try:
        yield
    except SurgeonError:
        raise
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise _unproved(name, f"a tiny model cannot be run: {reason}", where) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what transformers prints about tiny models."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def _unproved(name: str, reason: str, where: str) -> SurgeonError:
    return SurgeonError(
        f"a copy of a block of {name!r} is not shown to leave the function as it is: {reason}",
        where,
        "blocks of this architecture are not copied; see surgeon/arch/families for those that are",
    )
