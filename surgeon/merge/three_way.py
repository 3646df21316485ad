"""Whose word counts where models differ in more than weights: who changed what the base says, or the target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from surgeon.errors import SurgeonError
from surgeon.merge.ancestry import Member
from surgeon.merge.graded import Graded


@dataclass(frozen=True)
class Voices:
    """The models of a merge; `others`: without the target, only those of some positive weight. base: None where there
    is none: then what the target says stands. chat: the one that a person named as the one to follow."""

    base: Member | None
    target: Member
    others: Sequence[tuple[Member, Graded]]
    chat: Member | None = None

    def who(self, what: str, read: Callable[[Member], Any]) -> Member | None:
        """The model whose `read(model)` the output should have in place of the target's, None for the target's own.

        A target that says something else than the base has its own way. Else it is the model that says something
        else than the base; of several the one of the largest weight. Raises SurgeonError where two of equal weight
        say different things.
        """
        own = read(self.target)
        before = None if self.base is None else read(self.base)
        if self.chat is not None:
            said = read(self.chat)
            return self.chat if said is not None and said != own else None
        if own is not None and own != before:
            return None
        found = [(weight.size, member, read(member)) for member, weight in self.others]
        found = [entry for entry in found if entry[2] is not None and (own is None or entry[2] != own)]
        if not found:
            return None
        largest = max(size for size, _, _ in found)
        first = [(member, said) for size, member, said in found if size == largest]
        if any(said != first[0][1] for _, said in first):
            raise SurgeonError(
                f"{' and '.join(member.name for member, _ in first)} have different {what}, and "
                f"{self.target.name} has {'none' if own is None else 'that of the base'}",
                str(self.target.checkpoint.path),
                f"say which one to follow: --chat {first[0][0].name}",
            )
        return first[0][0]
