"""Models and tokenizers through transformers' Auto classes, with refusals where the library would only warn."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from surgeon.checkpoint.sidecars import TOKENIZER_FILES
from surgeon.errors import EXTRACT, SurgeonError, UsageError

if TYPE_CHECKING:
    import torch

Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "float32", "bfloat16"]
# elements of one batch of logits: what stays near a CPU's caches, and 1 GiB in float32 on a GPU
LOGIT_BUDGET = {"cpu": 1 << 22, "cuda": 1 << 28}

# what transformers and peft raise on a folder whose files say other things than they expect
_OF_A_FOLDER = (OSError, ValueError, KeyError, ImportError, RuntimeError, TypeError, AttributeError)


def resolve_device(device: Device) -> torch.device:
    """`auto` is the GPU where there is one; `cuda` without one is refused."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("there is no CUDA device", "--device cuda", "use --device auto or cpu")
    wanted = device if device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(wanted)


def resolve_dtype(dtype: Dtype, device: torch.device) -> torch.dtype:
    """The type of the arithmetic: `auto` is float32 on the CPU and bfloat16 on a GPU."""
    import torch

    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.float32 if dtype == "float32" else torch.bfloat16


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a checkpoint folder. Raises SurgeonError where there is none, or its files say other things
    than the library expects."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoTokenizer

    with quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
        except (*_OF_A_FOLDER, StrictDataclassError) as error:
            if not any((folder / name).is_file() for name in TOKENIZER_FILES):
                raise SurgeonError(
                    "there is no tokenizer (tokenizer.json, tokenizer.model, ...)",
                    str(folder),
                    "copy the tokenizer's files of the model that it was made from into the folder",
                ) from error
            raise _refused("the tokenizer cannot be loaded", folder, error) from error
    tokenizer.model_max_length = (
        sys.maxsize
    )  # texts are cut into windows here: a warning of their length would be wrong
    return tokenizer


def load_model(
    folder: Path, *, device: torch.device, dtype: torch.dtype, adapter: Path | None = None,
    trainable_adapter: bool = False, trust_remote_code: bool = False, encoders: bool = False,
) -> Any:  # fmt: skip
    """A causal language model in eval mode; refused if the checkpoint lacks a tensor or has one of another shape.

    adapter: a PEFT folder to put on it. Weights are read in `dtype` (bfloat16 to float32 is exact). encoders: an
    encoder (see is_encoder) is loaded with its masked-language-model head; without, it is refused, because as a causal
    model it would see the tokens it is asked for.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    kind = AutoModelForMaskedLM if is_encoder(folder) else AutoModelForCausalLM
    if kind is AutoModelForMaskedLM and not encoders:
        raise SurgeonError(
            "the model is an encoder, which gives no probability of a text",
            str(folder),
            "train it with `surgeon cpt --objective masked_lm`; this here needs a causal model",
        )
    with quiet():
        try:
            model, info = kind.from_pretrained(
                str(folder), dtype=dtype, trust_remote_code=trust_remote_code, output_loading_info=True
            )
        except (*_OF_A_FOLDER, StrictDataclassError) as error:
            raise _refused("transformers cannot load the model", folder, error) from error
        for what in ("missing_keys", "mismatched_keys"):
            if info[what]:
                first = sorted(map(str, info[what]))[0]
                raise SurgeonError(
                    f"the checkpoint does not fit its configuration: {what.split('_')[0]} tensor {first}"
                    + (f" (and {len(info[what]) - 1} more)" if len(info[what]) > 1 else ""),
                    str(folder),
                    "restore config.json and the shards from one source",
                )
        if kind is AutoModelForCausalLM and _looks_ahead(model):
            raise SurgeonError(
                f"{type(model).__name__} would be read as a causal model, but it is an encoder and sees ahead",
                str(folder),
                "AutoModelForMaskedLM.from_pretrained(DIR).save_pretrained(NEW) writes it as what it is",
            )
        _soft_capped(model)
        if adapter is not None:
            model = _with_adapter(model, adapter, trainable_adapter)
    return model.to(device).eval()


def _soft_capped(model: Any) -> None:
    """Attention as it is written, where its logits are soft-capped (Gemma 2): `sdpa` leaves that out, without a word
    before transformers 5.24, whose own choice this is."""
    config = model.config.get_text_config()
    if getattr(config, "attn_logit_softcapping", None) is not None and config._attn_implementation == "sdpa":
        model.set_attn_implementation("eager")


def is_encoder(folder: Path) -> bool:
    """Whether config.json names an architecture that fills in masked tokens (BertForMaskedLM), and no other one."""
    try:
        named = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("architectures") or []
    except (OSError, ValueError, AttributeError):
        return False  # loading it says what is wrong
    return bool(named) and all(str(name).endswith("ForMaskedLM") for name in named)


def _has_language_part(folder: Path) -> bool:
    return isinstance(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("text_config"), dict)


def _looks_ahead(model: Any) -> bool:
    """Whether the library made a causal model of an encoder's family, whose configuration says it is no decoder."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    config = model.config
    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and getattr(config, "is_decoder", None) is False


def load_skeleton(folder: Path, trust_remote_code: bool = False) -> Any:
    """The model of a checkpoint's config.json on the meta device: its names and shapes without its weights; an encoder
    with its masked-language-model head. Tied as the configuration says."""
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

    kind = AutoModelForMaskedLM if is_encoder(folder) else AutoModelForCausalLM
    with quiet():
        try:
            config = AutoConfig.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
            with torch.device("meta"):
                model = kind.from_config(config, trust_remote_code=trust_remote_code)
            model.tie_weights()
            return model
        except (*_OF_A_FOLDER, StrictDataclassError) as error:
            raise _refused("transformers cannot build the model", folder, error) from error


def _with_adapter(model: Any, adapter: Path, trainable: bool) -> Any:
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, str(adapter), is_trainable=trainable)
    except _OF_A_FOLDER as error:
        raise _refused("peft cannot load the adapter", adapter, error) from error


def context_length(model: Any) -> int | None:
    """The longest text that the configuration promises, in tokens; None where it says nothing."""
    found = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not found:
        return None
    # RoBERTa's family counts positions from behind its padding id: the rows up to it are no places of a text
    rows = [m for name, m in model.named_modules() if name.endswith("embeddings.position_embeddings")]
    skipped = [row.padding_idx + 1 for row in rows if getattr(row, "padding_idx", None) is not None]
    return int(found) - max(skipped, default=0)


def _refused(problem: str, folder: Path, error: Exception) -> SurgeonError:
    from huggingface_hub.errors import StrictDataclassError

    lines = [line.strip() for line in str(error).split("\n") if line.strip()] or [type(error).__name__]
    # a line that ends so says nothing without the next one
    reason = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    hint = "check the folder"
    if isinstance(error, StrictDataclassError):  # whatever was to be loaded
        problem, hint = "transformers does not take this config.json", "restore config.json from the model's source"
    if "trust_remote_code" in reason:
        hint = "read its code, then --trust-remote-code"
    elif reason.startswith("Unrecognized configuration class"):  # of some part beside a language model, or of none
        reason = "it is not the architecture of a causal language model"
        hint = EXTRACT if _has_language_part(folder) else "give a language model"
    return SurgeonError(f"{problem}: {reason}", str(folder), hint)


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and warnings of the library while loading; what they warn of is checked here."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
