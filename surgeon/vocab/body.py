"""The model as it is before the extension, loaded only if an init or the probe asks what it computes.

Shape suffixes: V rows of the output matrix, P positions, D columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgeon.errors import SurgeonError
from surgeon.loading import Device, context_length, load_model, resolve_device

if TYPE_CHECKING:
    from torch import Tensor

WINDOW = 512  # tokens: longer texts are cut, so that attention stays small for any context length
_READ = 64  # so many times the positions wanted are read, and windows spread over them are taken
_READ_HALVES = 1 << 20  # tokens that are read where halves are taken, by each of them the same
_WHOLE = 1 / 16  # share of all tokens up to which a text goes to one half
_AGREES = 1e-4  # of the largest logit: how far float32 may take the model's own logits from ours


@dataclass(frozen=True)
class Head:
    """How hidden states become logits: scale * (h @ weight.T + bias), then softcap * tanh(logit / softcap).

    weight [V, D], bias [V]: float32, on the model's device. softcap: None where there is none.
    """

    weight: Tensor
    bias: Tensor | None
    scale: float
    softcap: float | None

    def cap(self, scaled: Tensor) -> Tensor:
        """Logits from scaled ones; monotone."""
        return scaled if self.softcap is None else (scaled / self.softcap).tanh() * self.softcap

    def logits(self, hidden_PD: Tensor) -> Tensor:
        """float32 [P, V]."""
        raw = hidden_PD @ self.weight.T
        return self.cap(self.scale * (raw if self.bias is None else raw + self.bias))


class Body:
    """A checkpoint as a transformers model in float32, in eval mode, without gradients on its parameters."""

    def __init__(self, path: Path, device: Device = "auto") -> None:
        self.path, self.wanted = path, device

    @cached_property
    def model(self) -> Any:
        import torch

        model = load_model(self.path, device=resolve_device(self.wanted), dtype=torch.float32)
        return model.requires_grad_(False)

    @cached_property
    def head(self) -> Head:
        """The output matrix with what the configuration says of logits: `logit_scale` (Cohere), `lm_head_multiplier`
        (Falcon-H1), a divisor `logits_scaling` (Granite), `final_logit_softcapping` (Gemma)."""
        config = self.model.config.get_text_config()
        scale = 1.0
        for name in ("logit_scale", "lm_head_multiplier"):
            scale *= float(getattr(config, name, None) or 1.0)
        scale /= float(getattr(config, "logits_scaling", None) or 1.0)
        softcap = getattr(config, "final_logit_softcapping", None)
        module = self.model.get_output_embeddings()
        return Head(module.weight, getattr(module, "bias", None), scale, None if softcap is None else float(softcap))

    def hidden_states(
        self, sequences: Callable[[], Iterable[list[int]]], positions: int, half: int | None = None
    ) -> Tensor:
        """What enters the output matrix, float32 [P, D] on the model's device, at up to `positions` positions.

        Each sequence is cut into windows of at most 512 tokens (and the model's context), each behind the start that
        `evaluate` puts before a text; of what is read, windows spread evenly are taken. The last position of a window
        predicts nothing there and is dropped. half: 0 or 1 for one of two parts of the text that share no window, nor
        a text but for long ones. Raises SurgeonError where the text holds no two tokens (of a half: no two for each of
        them), and where `head` does not give the model's own logits on the first window.
        """
        import torch

        windows = self._windows(sequences, positions, half)
        found: list[Tensor] = []
        module = self.model.get_output_embeddings()
        caught: list[Tensor] = []

        def catch(_: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
            caught.append(inputs[0])
            return (inputs[0] if not found else inputs[0][:, -1:],)  # all logits are made once, to compare

        hook = module.register_forward_pre_hook(catch)
        try:
            with torch.no_grad():
                for window in windows:
                    ids = torch.tensor([window], device=module.weight.device)
                    logits = self.model(input_ids=ids, use_cache=False).logits
                    hidden_PD = caught.pop()[0, :-1].clone()
                    if not found:
                        self._compare(logits[0, :-1], self.head.logits(hidden_PD))
                    found.append(hidden_PD)
        finally:
            hook.remove()
        return torch.cat(found)[:positions].clone()

    def check_text(self, sequences: Callable[[], Iterable[list[int]]], *, halves: bool) -> None:
        """Raises what `hidden_states` would raise on such a text, of both halves if asked; nothing is computed."""
        for half in (0, 1) if halves else (None,):
            self._windows(sequences, 1, half)

    def _windows(
        self, sequences: Callable[[], Iterable[list[int]]], positions: int, half: int | None
    ) -> list[list[int]]:
        from surgeon.vocab.windows import start_ids

        length = min(context_length(self.model) or WINDOW, WINDOW)
        start = start_ids(self.path)
        enough = _READ * positions if half is None else _READ_HALVES
        windows: list[list[int]] = []
        texts: list[list[list[int]]] = []
        read = 0
        for sequence in sequences():
            step = length - len(start)
            cut = [[*start, *sequence[a : a + step]] for a in range(0, len(sequence), step)]
            texts.append([window for window in cut if len(window) > 1])
            windows += texts[-1]
            read += len(sequence)
            if read >= enough:
                break
        if not windows:
            raise SurgeonError("the probe holds no text of two tokens", "--probe", "give a corpus with text")
        if half is not None:
            windows = _halves(texts, len(start))[half]
        total = sum(len(window) - 1 for window in windows)
        count = min(len(windows), -(-len(windows) * positions // total))
        return [windows[k * len(windows) // count] for k in range(count)]

    def _compare(self, own: Tensor, ours: Tensor) -> None:
        largest = float(own.abs().max())
        off = float((own.float() - ours).abs().max()) if own.shape == ours.shape else float("nan")
        if not off <= _AGREES * largest:
            raise SurgeonError(
                f"the logits of {self.model.config.model_type} are not what its output matrix gives "
                f"(they differ by {off:.2g} of {largest:.2g})",
                str(self.path),
                "extend without --probe and --old-loss-budget",
            )


def _halves(texts: list[list[list[int]]], start: int) -> tuple[list[list[int]], list[list[int]]]:
    """The windows of each text in two halves of about as many tokens: what comes next goes to the shorter one.

    Texts go whole, for windows of one text share its words, but those that are long beside all are dealt by windows. A
    window that is alone is cut in the middle.
    """
    windows = [window for text in texts for window in text]
    if len(windows) == 1:
        window = windows[0]
        middle = start + (len(window) - start) // 2
        texts = [[window[:middle]], [window[:start] + window[middle:]]]
        if min(len(text[0]) for text in texts) < 2:
            raise SurgeonError(
                "the probe is too short: rows are fitted to one half of it, and the other measures them",
                "--probe",
                "give a corpus with more text",
            )
    long = sum(map(len, windows)) * _WHOLE
    halves: tuple[list[list[int]], list[list[int]]] = ([], [])
    sizes = [0, 0]
    for text in texts:
        whole = sum(map(len, text)) <= long
        for part in [text] if whole else [[window] for window in text]:
            shorter = 0 if sizes[0] <= sizes[1] else 1
            halves[shorter].extend(part)
            sizes[shorter] += sum(map(len, part))
    return halves
