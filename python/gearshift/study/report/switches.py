"""What strategies that switch gained against staying, and against never having stayed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .analysis import Arm, Combination, Comparison, compare, ends_of


@dataclass(frozen=True)
class Switch:
    """A strategy that switches, in one combination."""

    combination: Combination
    arm: Arm
    start: str
    then: str
    over_start: Comparison | None
    """Time of staying with the start ÷ that of the switch; None: not in the study."""
    over_then: Comparison | None
    """Time of beginning with what it switches to ÷ that of the switch; None: not in the study."""

    @property
    def too_late(self) -> bool:
        """Whether it switched, and in no seed before the target was reached: it took no part."""
        runs = [run for run in self.arm.best.reached if run.switched is not None]
        return bool(runs) and all(
            run.reached is not None
            and run.switched is not None
            and run.switched[1] >= run.reached.seconds
            for run in runs
        )

    @property
    def reasons(self) -> list[str]:
        """Why it switched, or why it never did, each once."""
        said = []
        for outcome in self.arm.best.outcomes:
            said += [str(s.get("reason", "")) for s in outcome.switches[:1]]
            said += [outcome.idle_switch] if outcome.idle_switch else []
        return [reason for reason in dict.fromkeys(said) if reason]


def switches(found: Sequence[Combination]) -> list[Switch]:
    """Of all combinations."""
    made = []
    for combination in found:
        for arm in combination.arms:
            if arm.kind != "switch":
                continue
            start, then = ends_of(arm.strategy)
            made.append(
                Switch(
                    combination,
                    arm,
                    start,
                    then,
                    _over(arm, combination.arm(start)),
                    _over(arm, combination.arm(then)),
                )
            )
    return made


def _over(arm: Arm, other: Arm | None) -> Comparison | None:
    return None if other is None else compare(arm, other)
