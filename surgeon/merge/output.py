"""What both kinds of merge share: which tensors are merged, and the files that the target lacks."""

from __future__ import annotations

from collections.abc import Sequence

from surgeon.checkpoint.config_json import read_json_object
from surgeon.checkpoint.header import FLOATS
from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError
from surgeon.merge.ancestry import Member

TEMPLATE = "chat_template.jinja"
GENERATION = "generation_config.json"


def is_float(name: str, members: Sequence[Member]) -> bool:
    """Whether the tensor is merged; whole numbers (buffers) are not."""
    held = [m.checkpoint.tensors[name] for m in members if name in m.checkpoint.tensors]
    unknown = [t for t in held if t.dtype.startswith("F8")]
    if unknown:
        raise SurgeonError(
            f"{name!r} is stored in {unknown[0].dtype}: its codes mean nothing without their scales",
            str(unknown[0].path),
            "give the checkpoint in bfloat16 or float32",
        )
    return all(t.dtype in FLOATS for t in held)


def borrowed(
    target: Member, others: Sequence[tuple[Member, float]]
) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """(files to write, files to carry -> role, file -> role it is from): what the target lacks, from tuned models.

    The chat template and the generation config, each from the model of the largest weight that has it. Raises
    SurgeonError where two of equal weight have different ones.
    """
    files: dict[str, str] = {}
    carried: dict[str, str] = {}
    origin: dict[str, str] = {}
    for name, read in ((TEMPLATE, chat_template), (GENERATION, _generation_config)):
        if read(target.checkpoint) is not None:
            continue
        found = [
            (abs(weight), member, text) for member, weight in others if (text := read(member.checkpoint)) is not None
        ]
        if not found:
            continue
        largest = max(weight for weight, _, _ in found)
        first = [(member, text) for weight, member, text in found if weight == largest]
        if any(text != first[0][1] for _, text in first):
            raise SurgeonError(
                f"{' and '.join(m.name for m, _ in first)} have different files {name}, and {target.name} has none",
                str(target.checkpoint.path),
                f"put the {name} that is meant into the folder of {target.name}",
            )
        member, text = first[0]
        origin[name] = member.role
        if (member.checkpoint.path / name).is_file():
            carried[name] = member.role
        else:
            files[name] = text
    return files, carried, origin


def chat_template(checkpoint: Checkpoint) -> str | None:
    """The chat template: of its own file, else the one inside tokenizer_config.json."""
    path = checkpoint.path / TEMPLATE
    if path.is_file():
        return path.read_text(encoding="utf-8")
    settings = checkpoint.path / "tokenizer_config.json"
    if not settings.is_file():
        return None
    inside = read_json_object(settings).get("chat_template")
    return inside if isinstance(inside, str) else None


def _generation_config(checkpoint: Checkpoint) -> str | None:
    path = checkpoint.path / GENERATION
    return path.read_text(encoding="utf-8") if path.is_file() else None
