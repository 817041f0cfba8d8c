"""The answer in a few sentences, all of them made of what was found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from ...report.words import count, several
from .analysis import LEAST_LEAD, Arm, Combination, compare, factors
from .context import Context
from .document import code
from .numbers import number, times
from .spread import FEWEST
from .switches import Switch, switches
from .words import SEEDS

_OUTCOMES = {"ahead": "gains", "behind": "loses", "level": "is level"}


def write_answer(context: Context) -> None:
    """A list for each clock; then what is missing."""
    context.document.heading(2, "1. The answer")
    for clock in context.data.clocks:
        found = context.of(clock=clock)
        if len(context.data.clocks) > 1:
            context.document.paragraph(f"**{clock.capitalize()}:**")
        names = list(dict.fromkeys(arm.strategy for c in found for arm in c.arms))
        items = [_who(found), *_undecided(found), *_gains(found)]
        for name in [n for n in context.data.strategies if n in names]:
            items += _looser(found, name)
        items += _switching(found)
        items += _safest(found)
        context.document.bullets(items)
    context.document.paragraph(_incomplete(context))


def wins(found: Sequence[Combination]) -> dict[str, list[Combination]]:
    """By strategy, the one with the most first; combinations that are level are nobody's."""
    by_name: dict[str, list[Combination]] = {}
    for combination in found:
        if combination.verdict in ("won", "few seeds"):
            by_name.setdefault(combination.first.strategy, []).append(combination)
    return dict(sorted(by_name.items(), key=lambda item: -len(item[1])))


def _who(found: Sequence[Combination]) -> str:
    won = wins(found)
    places = count(len(found), "combination") + " of use case and cluster"
    if won:
        names = [f"{code(name)} in {len(cases)}" for name, cases in won.items()]
        return f"**Of {places}, the target is reached first by {several(names)}.**"
    if all(c.verdict == "nobody" for c in found):
        return f"**In none of {places} does any strategy reach the target.**"
    if all(len(c.arms) == 1 for c in found):
        names = list(dict.fromkeys(code(c.first.strategy) for c in found))
        return f"**Only {several(names)} was run in {places}: there is nothing to compare.**"
    return f"**In none of {places} is one strategy first by more than seeds differ.**"


def _undecided(found: Sequence[Combination]) -> list[str]:
    items = []
    level = [c for c in found if c.verdict == "level"]
    nobody = [c for c in found if c.verdict == "nobody"]
    few = [c for c in found if c.verdict == "few seeds"]
    if level:
        items.append(
            f"Nothing is decided in {len(level)} of {len(found)}: there the first leads the next by"
            f" less than seeds differ, or by less than {100 * (LEAST_LEAD - 1):.0f} %, or too few"
            " seeds reach the target."
            f" First or level with the first: {_among_the_first(found)}."
        )
    if nobody and len(nobody) < len(found):
        items.append(f"Nobody reaches the target in {len(nobody)} of {len(found)}.")
    if few:
        seeds = sorted({_fewest_common(c) for c in few})
        said = several([SEEDS.get(n, count(n, "seed")) for n in seeds])
        items.append(
            f"With {said} in {len(few)} of {len(found)}, who is first there may be chance: an"
            f" interval takes {FEWEST} seeds that reach the target."
        )
    return items


def _fewest_common(combination: Combination) -> int:
    """Seeds that the first and one of those have both run that it does not beat for certain."""
    compared = [compare(combination.first, arm) for arm in combination.arms[1:]]
    return min(comparison.common for comparison in compared if not comparison.decided)


def _among_the_first(found: Sequence[Combination]) -> str:
    """How often each strategy is, for those that ever are; the most often first."""
    times_of: dict[str, int] = {}
    for combination in found:
        if combination.first.ever_reached:
            for arm in (combination.first, *combination.level):
                times_of[arm.strategy] = times_of.get(arm.strategy, 0) + 1
    ordered = sorted(times_of.items(), key=lambda item: -item[1])
    return several([f"{code(name)} in {number_of}" for name, number_of in ordered])


def _gains(found: Sequence[Combination]) -> list[str]:
    items = []
    for name, cases in wins(found).items():
        over_base = _ratios(
            [(c.first, c.baseline) for c in cases if c.baseline and c.baseline is not c.first]
        )
        over_next = _ratios([(c.first, c.arms[1]) for c in cases])
        parts = []
        if over_base:
            base = next(c.baseline.strategy for c in cases if c.baseline)
            parts.append(f"{_spread(over_base)} over {code(base)}")
        if over_next:
            parts.append(f"{_spread(over_next)} over the best other")
        if parts:
            median_of = "median gain" if max(len(over_base), len(over_next)) > 1 else "gain"
            items.append(f"Where {code(name)} is first: {median_of} {several(parts)}.")
    return items


def _ratios(pairs: Sequence[tuple[Arm, Arm]]) -> list[float]:
    compared = [compare(first, other).ratio for first, other in pairs]
    return [found.mean for found in compared if found is not None]


def _spread(values: Sequence[float]) -> str:
    text = times(median(values))
    ends = number(min(values)), number(max(values))
    return text if ends[0] == ends[1] else f"{text} ({ends[0]} to {ends[1]})"


def outcome_of(arm: Arm, other: Arm) -> str:
    """Says "ahead", "behind" or "level" of the other, in its time to the target."""
    forth, back = compare(arm, other), compare(other, arm)
    for comparison, word in ((forth, "ahead"), (back, "behind")):
        if comparison.decided or comparison.likely:
            return word
    return "level"


def _looser(found: Sequence[Combination], name: str) -> list[str]:
    """Where an asynchronous strategy, or local SGD, wins and loses against All-Reduce, and by which
    factor."""
    pairs = [
        (arm, c.baseline)
        for c in found
        if (arm := c.arm(name)) is not None and arm.kind in ("asynchronous", "local")
        and c.baseline and c.baseline.ever_reached
    ]  # fmt: skip
    if not pairs:
        return []
    behind = [(a, b) for a, b in pairs if outcome_of(a, b) == "behind"]
    ahead = [(a, b) for a, b in pairs if outcome_of(a, b) == "ahead"]
    text = (
        f"{code(name)} against {code(pairs[0][1].strategy)}: faster in {len(ahead)},"
        f" slower in {len(behind)} of {len(pairs)}."
    )
    if ahead:
        text += f" Where it gains, {_typical(ahead)}."
    if behind:
        text += f" It loses {_losses(behind)}."
    return [text]


def _typical(pairs: Sequence[tuple[Arm, Arm]]) -> str:
    known = [why for a, b in pairs if (why := factors(a, b)) is not None]
    if not known:
        return "the other does not reach the target"
    return (
        f"it does {times(median(w.speed for w in known))} the samples per second and needs"
        f" {times(median(w.samples for w in known))} the samples (medians)"
    )


def _losses(pairs: Sequence[tuple[Arm, Arm]]) -> str:
    diverged = [a for a, _ in pairs if not a.ever_reached and a.best.diverged]
    never = [a for a, _ in pairs if not a.ever_reached and not a.best.diverged]
    known = [why for a, b in pairs if (why := factors(a, b)) is not None and why.time > 1]
    by_samples = [why for why in known if why.by_samples]
    by_speed = [why for why in known if not why.by_samples]
    fewer = len(pairs) - len(never) - len(diverged) - len(known)
    parts = []
    if by_samples:
        parts.append(
            f"in {len(by_samples)} by the samples that it needs (median"
            f" {times(median(w.samples for w in by_samples))})"
        )
    if by_speed:
        parts.append(
            f"in {len(by_speed)} by its samples per second (median"
            f" {times(median(w.speed for w in by_speed))})"
        )
    if fewer:
        parts.append(f"in {fewer} by reaching the target in fewer of the seeds")
    if never:
        parts.append(f"in {len(never)} by not reaching the target")
    if diverged:
        parts.append(f"in {len(diverged)} by diverging")
    return several(parts)


def _switching(found: Sequence[Combination]) -> list[str]:
    items = []
    by_name: dict[str, list[Switch]] = {}
    for switch in switches(found):
        by_name.setdefault(switch.arm.strategy, []).append(switch)
    for name, cases in by_name.items():
        parts = []
        for end, what in (("start", "staying with"), ("then", "beginning with")):
            others = [(s.arm, o) for s in cases if (o := s.combination.arm(getattr(s, end)))]
            others = [(a, o) for a, o in others if a.ever_reached or o.ever_reached]
            if others:
                words = [outcome_of(a, o) for a, o in others]
                told = [f"{_OUTCOMES[w]} in {words.count(w)}" for w in _OUTCOMES if w in words]
                ratios = _ratios(others)
                gain = f" (median gain {times(median(ratios))})" if ratios else ""
                parts.append(
                    f"against {what} {code(others[0][1].strategy)} it {several(told)}{gain}"
                )
        late = sum(switch.too_late for switch in cases)
        if late:
            parts.append(
                f"in {late} of {len(cases)} it switches only after the target, so that what is"
                " gained or lost there is not the switch's doing"
            )
        if parts:
            items.append(f"{code(name)}: {'; '.join(parts)}.")
    return items


def _safest(found: Sequence[Combination]) -> list[str]:
    """The strategy that is least far behind at its worst."""
    reached = [c for c in found if c.first.ever_reached and len(c.arms) > 1]
    if len(reached) < 2:
        return []
    names = [a.strategy for a in reached[0].arms]
    worst = {n: max(_regret(c, n) for c in reached) for n in names}
    name = min(worst, key=lambda n: worst[n])
    if not math.isfinite(worst[name]):
        return [
            "No strategy reaches the target in every combination in which another one does:"
            " whichever is taken for all of them fails somewhere."
        ]
    return [
        f"If one strategy has to serve all of these, {code(name)} is the safest: at worst it takes"
        f" {times(worst[name])} the time of the first."
    ]


def _regret(combination: Combination, name: str) -> float:
    arm = combination.arm(name)
    if arm is None or not arm.ever_reached or not math.isfinite(arm.best.time):
        return math.inf
    return max(1.0, arm.best.time / combination.first.best.time)


def _incomplete(context: Context) -> str:
    data = context.data
    parts = []
    if data.missing:
        parts.append(f"{len(data.missing)} of {count(data.asked, 'cell')} not run")
    if data.failed():
        parts.append(f"{len(data.failed())} of {data.asked} failed (section 8 says why)")
    return f"**This report is incomplete: {several(parts)}.**" if parts else ""
