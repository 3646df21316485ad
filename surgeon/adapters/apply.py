"""A model with an adapter as sources of its tensors: what PEFT computes unmerged, tensor by tensor, nothing loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgeon.adapters.experts import expert_sources
from surgeon.adapters.peft_format import PREFIX, Adapter, Touched, open_adapter, rank_and_scaling, read_adapter
from surgeon.adapters.refusals import RANDOM_START, check_adapter
from surgeon.adapters.start_file import FOLDER as START_FOLDER
from surgeon.adapters.start_file import changes_base, start_factors
from surgeon.adapters.targets import module_name
from surgeon.arch.family import Family
from surgeon.checkpoint.index import ADAPTER_CONFIG, Checkpoint
from surgeon.checkpoint.sidecars import SURGEON_DIR
from surgeon.errors import SurgeonError
from surgeon.ops.plan import Apply, Copy, Piece, Rows, Source, runs

# variants of LoRA whose update is not s B A
_VARIANTS = (
    "use_dora", "lora_bias", "use_qalora", "use_bdlora", "kasa_config", "velora_config", "monteclora_config",
)  # fmt: skip
# keys that speak of other modules than the one at hand
_ELSEWHERE = (
    "target_modules", "exclude_modules", "layers_to_transform", "modules_to_save", "target_parameters",
    "trainable_token_indices",
)  # fmt: skip


@dataclass(frozen=True)
class Applied:
    """sources: of the tensors that the adapter changes, by their names in the checkpoint. head: of the output matrix
    where the model is tied and the adapter makes two matrices of one. inputs: folders that sources name, by role."""

    adapter: Adapter
    sources: dict[str, Source]
    inputs: dict[str, Path]
    head: Source | None = None


@dataclass(frozen=True)
class _On:
    """An adapter on a model; `role` is the adapter's name in the plan."""

    checkpoint: Checkpoint
    family: Family
    adapter: Adapter
    role: str
    start: Mapping[str, tuple[str, str]]

    @property
    def config(self) -> dict[str, Any]:
        return self.adapter.config

    @property
    def start_role(self) -> str:
        return f"{self.role}-start"

    @property
    def where(self) -> str:
        return str(self.adapter.checkpoint.path / ADAPTER_CONFIG)


def applied(checkpoint: Checkpoint, family: Family, folder: Path, role: str = "adapter") -> Applied:
    """What the adapter makes of the tensors of the input "model"; it is itself the input `role`.

    Raises SurgeonError where it is not for this model, or has no effect on weights alone.
    """
    config = open_adapter(folder).config
    check_adapter(config, str(folder / ADAPTER_CONFIG))
    stored = {module_name(family, n): n for n in checkpoint.tensors if n.endswith(".weight")}
    head = family.declaration.head
    experts = expert_sources(checkpoint, family, folder, role) if config.get("target_parameters") else None
    adapter = read_adapter(folder, {*stored, head, *(experts.modules if experts else ())})
    if experts is not None:
        adapter = experts.without(adapter)
    elif adapter.shared and not adapter.touched:
        raise SurgeonError(
            f"the adapter holds only {adapter.shared[0]!r}, which many modules share: what each of them makes of it "
            "is not in the file",
            str(folder),
            "use the adapter with peft, or merge it there with the whole model in memory",
        )
    on = _On(checkpoint, family, adapter, role, start_factors(adapter.checkpoint))
    sources: dict[str, Source] = dict(experts.sources) if experts else {}
    tied_head: Source | None = None
    embedding = module_name(family, family.embedding)
    for module, touched in adapter.touched.items():
        if family.tied and module == head:
            tied_head = _weight(on, touched, family.embedding)
            if touched.factors and changes_base(adapter.checkpoint):
                sources[family.embedding] = _shared_start(on, touched)
        else:
            sources |= _module(on, touched, stored.get(module))
    inputs = {role: folder}
    if on.start:
        inputs[on.start_role] = folder / SURGEON_DIR / START_FOLDER
    if not family.tied:
        return Applied(adapter, sources, inputs)
    both = adapter.touched.get(embedding), adapter.touched.get(head)
    return Applied(adapter, sources, inputs, _second_matrix(on, sources.get(family.embedding), tied_head, both))


def _shared_start(on: _On, head: Touched) -> Source:
    """The embedding of a tied model whose head's kind took its start out of the matrix that the two share."""
    if "weight" in head.saved:
        return Copy(on.role, head.saved["weight"])
    raise SurgeonError(
        "the adapter took its start out of the head, which is the embedding too, and does not hold what was left",
        on.where,
        "save it with the embedding layers: save_pretrained(..., save_embedding_layers=True)",
    )


def _second_matrix(
    on: _On, embedding: Source | None, head: Source | None, both: tuple[Touched | None, Touched | None]
) -> Source | None:
    """The output matrix of a tied model where it does not stay the embedding; None where it does.

    PEFT ties new rows by itself, and updates that it was told to tie are one, transposed.
    """
    if embedding is None and head is None:
        return None
    touched, second = both
    if touched is not None and touched.rows is not None and head is None:
        return None
    if touched is not None and second is not None and _same_update(on, touched, second):
        return None
    return head if head is not None else Copy("model", on.family.embedding)


def _same_update(on: _On, embedding: Touched, head: Touched) -> bool:
    """Whether the head's update is the embedding's: the same saved matrix, the same factors, transposed."""
    import torch

    from surgeon.checkpoint.reader import read

    tensors = on.adapter.checkpoint.tensors
    pairs = []
    for leaf in {*embedding.saved, *head.saved}:
        if leaf not in embedding.saved or leaf not in head.saved:
            return False
        pairs.append((read(tensors[embedding.saved[leaf]]), read(tensors[head.saved[leaf]])))
    if embedding.factors or head.factors:
        if not (embedding.factors and head.factors):
            return False
        for own, other in (("A", "B"), ("B", "A")):
            pairs.append((read(tensors[embedding.factors[own]]), read(tensors[head.factors[other]]).T))
    return all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs)


def _module(on: _On, touched: Touched, weight: str | None) -> dict[str, Source]:
    """The sources of a module's weight and bias, as far as the adapter changes them."""
    if weight is None:
        raise _no_such(on, touched.module)
    source = _weight(on, touched, weight)
    found: dict[str, Source] = {weight: source} if source != Copy("model", weight) else {}
    bias = weight.removesuffix("weight") + "bias"
    if "bias" in touched.saved:
        _check_shape(on, touched.saved["bias"], bias)
        found[bias] = Copy(on.role, touched.saved["bias"])
    if _through_peft(on, touched) and bias in on.checkpoint.tensors:  # a saved bias is what PEFT adds to, too
        found[bias] = _merged_by_peft(on, touched, weight, "bias")
    return found


def _weight(on: _On, touched: Touched, weight: str) -> Source:
    base: Source = Copy("model", weight)
    if "weight" in touched.saved:
        _check_shape(on, touched.saved["weight"], weight)
        base = Copy(on.role, touched.saved["weight"])
    if touched.rows is not None:
        return _rows(on, touched, weight, base)
    if _through_peft(on, touched):
        return _merged_by_peft(on, touched, weight, "weight", base)
    if not touched.factors:
        return base
    a, b, scaling = factors(on.adapter, touched)
    transposed = touched.is_embedding or (on.family.transposed and on.family.unit(weight).block is not None)
    _check_fit(on, touched, weight, a, b, transposed)
    inputs: tuple[Source, ...] = (base, Copy(on.role, a), Copy(on.role, b))
    if touched.module in on.start and "weight" not in touched.saved:
        inputs += tuple(Copy(on.start_role, name) for name in on.start[touched.module])
    options: dict[str, Any] = {"scaling": scaling} | ({"transposed": True} if transposed else {})
    return Apply("kernel:add_lora", inputs, options)


def _through_peft(on: _On, touched: Touched) -> bool:
    """Whether what the adapter does to the module is more than s B A."""
    config = on.config
    if config.get("peft_type") != "LORA":
        return bool(touched.factors or touched.others)
    # a matrix that PEFT saved beside the factors (of a head) is the one that the start was taken out of
    changed = changes_base(on.adapter.checkpoint) and touched.module not in on.start and "weight" not in touched.saved
    return bool(touched.others) or (bool(touched.factors) and (changed or any(config.get(k) for k in _VARIANTS)))


def _merged_by_peft(on: _On, touched: Touched, weight: str, leaf: str, base: Source | None = None) -> Source:
    init, own = str(on.config.get("init_lora_weights", "")), "weight" in touched.saved
    if init.startswith(("corda", "lora_ga", "loftq", RANDOM_START)) and not own:
        raise SurgeonError(
            f"the adapter was started by {init!r}, which changed the model's own weights, and its start is not there",
            on.where,
            "restore its surgeon/start, or convert it with peft where it was made",
        )
    bias = weight.removesuffix("weight") + "bias"
    names = [*touched.factors.values(), *touched.others.values(), *on.adapter.shared]
    saved = touched.saved.get("bias")
    biases = (Copy("model", bias) if saved is None else Copy(on.role, saved),) if bias in on.checkpoint.tensors else ()
    inside = on.family.unit(weight).block is not None
    layer = "embedding" if touched.is_embedding else "conv1d" if on.family.transposed and inside else "linear"
    # with what is false or zero: PEFT's defaults are not always that. Without what speaks of other modules, which can
    # be long and would be repeated for every one of them
    config = {key: value for key, value in on.config.items() if key not in _ELSEWHERE}
    if own and changes_base(on.adapter.checkpoint):
        config["init_lora_weights"] = True
    options = {"config": config, "module": touched.module, "names": names, "leaf": leaf, "layer": layer}
    inputs = (base or Copy("model", weight), *biases, *(Copy(on.role, name) for name in names))
    return Apply("kernel:peft_merge", inputs, options)


def _rows(on: _On, touched: Touched, weight: str, base: Source) -> Source:
    """Some rows of a matrix replaced; the file has them in the order in which the configuration names them."""
    assert touched.rows is not None
    ids = _row_ids(on, touched.module)
    stored, matrix = on.adapter.checkpoint.tensors[touched.rows], on.checkpoint.tensors[weight]
    if stored.shape != (len(ids), *matrix.shape[1:]) or max(ids) >= matrix.shape[0] or len(set(ids)) != len(ids):
        raise SurgeonError(
            f"{touched.module}: the adapter holds {list(stored.shape)} for {len(ids)} rows of {list(matrix.shape)}",
            on.where,
            "give the model that the adapter was made for",
        )
    order = sorted(range(len(ids)), key=ids.__getitem__)
    new = Apply("kernel:take", (Copy(on.role, touched.rows),), {"runs": [list(run) for run in runs(order)]})
    chosen = set(ids)
    rest = [i for i in range(matrix.shape[0]) if i not in chosen]
    pieces = [Piece(runs(rest), base)] if rest else []
    return Rows((*pieces, Piece(runs(sorted(ids)), new)))


def _row_ids(on: _On, module: str) -> list[int]:
    given = on.config.get("trainable_token_indices")
    if isinstance(given, Mapping):
        given = next((ids for name, ids in given.items() if module == name or module.endswith(f".{name}")), None)
    if not given:
        raise SurgeonError(f"the configuration names no rows of {module}", on.where, "restore adapter_config.json")
    return [int(i) for i in given]


def factors(adapter: Adapter, touched: Touched) -> tuple[str, str, float]:
    """(name of A, name of B, s) of plain LoRA, checked against the configuration."""
    where = str(adapter.checkpoint.path / ADAPTER_CONFIG)
    if sorted(touched.factors) != ["A", "B"]:
        raise SurgeonError(f"{touched.module} has only one of lora_A and lora_B", where, "restore the adapter's files")
    a, b = (adapter.checkpoint.tensors[touched.factors[letter]].shape for letter in "AB")
    config = adapter.config
    rank, scaling = rank_and_scaling(config, touched.module)
    if len(a) != 2 or len(b) != 2 or a[0] != rank or b[1] != rank:
        raise SurgeonError(
            f"{touched.module}: lora_A is {list(a)} and lora_B {list(b)}, the configuration says rank {rank}",
            where,
            "restore adapter_config.json and adapter_model.safetensors from one save",
        )
    return touched.factors["A"], touched.factors["B"], scaling


def _check_fit(on: _On, touched: Touched, weight: str, a: str, b: str, transposed: bool) -> None:
    tensors = on.adapter.checkpoint.tensors
    update = (tensors[b].shape[0], tensors[a].shape[1])
    shape = on.checkpoint.tensors[weight].shape
    if update != (shape[::-1] if transposed else shape):
        raise SurgeonError(
            f"the adapter's update of {touched.module!r} is {list(update)}, the model's matrix is {list(shape)}",
            on.where,
            "give the model that the adapter was made for",
        )


def _check_shape(on: _On, name: str, tensor: str) -> None:
    held = on.checkpoint.tensors.get(tensor)
    found = on.adapter.checkpoint.tensors[name].shape
    if held is None or held.shape != found:
        raise SurgeonError(
            f"the adapter holds {name.removeprefix(PREFIX)!r} of {list(found)}, the model's is "
            f"{'not there' if held is None else list(held.shape)}",
            on.where,
            "give the model that the adapter was made for",
        )


def _no_such(on: _On, module: str) -> SurgeonError:
    return SurgeonError(
        f"the adapter is for the module {module!r}, which the model does not store as one matrix",
        on.where,
        f"give the model it was made for ({on.config.get('base_model_name_or_path')})",
    )
