"""Which hosts, links and ranks are slower than the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from .finding import Finding, ok, warning
from .pace import Pace
from .speed import Link

_SLOW = 2.0
"""So many times slower than the median: measured in moments, on machines that do other things."""
_ASYMMETRIC = 2.0
_SLOW_LATENCY, _LATENCY_MARGIN = 3.0, 200e-6
_SLOW_RANK = 1.5
_TOO_HIGH, _TOO_LOW = 3.0, 6.0
"""A survey sends both ways at once, which some hosts do at half the speed."""
_CLOCK = 0.1
_ENOUGH = 3
"""Fewer than so many have no median that says anything."""


def judge_links(links: Sequence[Link], names: Mapping[int, str], measured: bool) -> list[Finding]:
    """`names`: of hosts, by rank; `measured`: the session knows its links by a survey."""
    remote = [link for link in links if link.remote]
    found = [*_asymmetric(remote, names), *_slow(remote, names), *_clocks(remote, names)]
    if measured:
        found += _stale(remote, names)
    if not found and links:
        found.append(ok("links", f"{len(links)} measured; none stands out"))
    return found


def judge_paces(paces: Mapping[int, Pace], names: Mapping[int, str]) -> list[Finding]:
    """Ranks that compute or copy slower than the others at the same time."""
    found = []
    slow: dict[int, str] = {}
    for what, rates in (
        ("multiplies matrices", {rank: pace.flops for rank, pace in paces.items()}),
        ("copies memory", {rank: pace.copied for rank, pace in paces.items()}),
    ):
        if len(rates) < 2:
            continue
        # Of two, the faster one says what is possible.
        usual = max(rates.values()) if len(rates) < _ENOUGH else median(rates.values())
        for rank, rate in rates.items():
            if rate * _SLOW_RANK < usual:
                slow.setdefault(rank, f"{what} {usual / rate:.1f} times slower than the others")
    for rank, text in sorted(slow.items()):
        found.append(
            warning(
                "slow rank",
                f"rank {rank} on {names[rank]} {text}",
                "with All-Reduce or BSP every step waits for it",
                "see `top` and the processor's frequency there; give it fewer samples "
                "(docs/python.md), or use SSP or ASP (docs/strategies.md)",
            )
        )
    return found or [ok("ranks", "all compute about equally fast")]


def _asymmetric(links: Sequence[Link], names: Mapping[int, str]) -> list[Finding]:
    found = []
    for link in links:
        slow, fast = sorted((link.there, link.back))
        if slow * _ASYMMETRIC >= fast:
            continue
        source, target = (link.a, link.b) if link.there < link.back else (link.b, link.a)
        found.append(
            warning(
                "asymmetric link",
                f"{_name(source, names)} to {_name(target, names)}: {_rate(slow)}, and "
                f"{_rate(fast)} the other way",
                "collectives send both ways at once: the slower direction counts",
                "look for errors and duplex on both interfaces (`ip -s link`, `ethtool`), limits "
                "of the cloud on what may be sent, and other traffic",
            )
        )
    return found


def _slow(remote: Sequence[Link], names: Mapping[int, str]) -> list[Finding]:
    if len(remote) < _ENOUGH:
        return []
    usual = median(min(link.there, link.back) for link in remote)
    late = median(link.latency for link in remote)
    slow = [link for link in remote if min(link.there, link.back) * _SLOW < usual]
    far = [link for link in remote if link.latency > _SLOW_LATENCY * late + _LATENCY_MARGIN]
    found = []
    for links, text in (
        (slow, lambda link: f"{_rate(min(link.there, link.back))}, where {_rate(usual)} is usual"),
        (far, lambda link: f"{1e6 * link.latency:.0f} µs one way, where {1e6 * late:.0f} is usual"),
    ):
        if not links:
            continue
        shared = _in_common(links, names)
        said = "; ".join(
            f"{_name(link.a, names)} and {_name(link.b, names)}: {text(link)}" for link in links
        )
        found.append(
            warning(
                "slow links",
                said + (f" (all of them lead to {shared})" if shared else ""),
                "rings and trees go around them where they can; what has to cross them waits",
                f"look at {shared or 'the way between these hosts'}: its interface (`ip -s link`, "
                "`ethtool`), cable, switch port, and which address was chosen above",
            )
        )
    return found


def _in_common(links: Sequence[Link], names: Mapping[int, str]) -> str:
    """The host that all of several links have in common."""
    if len(links) < 2:
        return ""
    sides = [{names[link.a], names[link.b]} for link in links]
    shared = set.intersection(*sides)
    return shared.pop() if len(shared) == 1 else ""


def _clocks(remote: Sequence[Link], names: Mapping[int, str]) -> list[Finding]:
    return [
        warning(
            "clocks",
            f"that of {_name(link.b, names)} is {abs(link.clock):.2f} s "
            f"{'before' if link.clock > 0 else 'behind'} that of {_name(link.a, names)}",
            "nothing in a job depends on it, but lines of logs will not be in order",
            "synchronise both (chrony, systemd-timesyncd)",
        )
        for link in remote
        if abs(link.clock) > _CLOCK
    ]


def _stale(remote: Sequence[Link], names: Mapping[int, str]) -> list[Finding]:
    """A survey is kept for a day; the network may have been changed since."""
    off = [
        link
        for link in remote
        if not 1 / _TOO_LOW < link.surveyed / min(link.there, link.back) < _TOO_HIGH
    ]
    if not off:
        return []
    worst = off[0]
    return [
        warning(
            "known speeds",
            f"{_name(worst.a, names)} and {_name(worst.b, names)}: "
            f"{_rate(min(worst.there, worst.back))} now, and jobs take it for "
            f"{_rate(worst.surveyed)}"
            + (f"; {len(off) - 1} more links are as far off" if len(off) > 1 else ""),
            "algorithms are chosen by speeds that a job measures once a day",
            "run a job with GEARSHIFT_CALIBRATE=force once, when nothing else uses the network",
        )
    ]


def _name(rank: int, names: Mapping[int, str]) -> str:
    return f"{names[rank]} (rank {rank})"


def _rate(bytes_per_second: float) -> str:
    return f"{bytes_per_second / 1e6:,.0f} MB/s"
