"""Which strategy to use on a cluster, by how much, how sure that is, and what would change it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib import resources
from statistics import fmean
from typing import Any

from ..errors import Error
from ..report.words import count
from ..strategy import StrategySwitch, parse, to_text, uses_local
from . import scaling
from .batch import Batch, Job
from .extension import describe_cluster
from .inputs import Source
from .result import Result, pace_hint
from .table import per_second
from .winners import SAME, margin_of_error

PLAIN = "all_reduce"
CANDIDATES = (
    PLAIN,
    "all_reduce:ring",
    "all_reduce:recursive_doubling",
    "all_reduce:rabenseifner",
    "all_reduce:tree",
    "all_reduce:hierarchical",
    "ps:bsp",
    "ps:bsp(shards=1)",
    "ps:ssp(3)",
    "ps:asp",
)
SEEDS = 3
LOCAL_STEPS = 8
LOCAL = f"local_sgd({LOCAL_STEPS})"
LOCAL_SGD = "local SGD"
ACCURACY = "accuracy.json"
_OUT_OF_REACH = 2.0
"""Who is slower by this factor is not looked at again: no change that is tried makes more."""


@dataclass(frozen=True)
class Accuracy:
    """How far the model was from measured runs; read from ``accuracy.json`` of the package."""

    mean_absolute_error: float
    p95_absolute_error: float
    configurations: int

    @staticmethod
    def load() -> Accuracy | None:
        """None: this build was not validated."""
        file = resources.files(__package__) / ACCURACY
        if not file.is_file():
            return None
        values = json.loads(file.read_text(encoding="utf-8"))
        return Accuracy(*(values[key] for key in Accuracy.__dataclass_fields__))


@dataclass(frozen=True)
class Estimate:
    """Throughput of one strategy over several seeds, samples per second."""

    mean: float
    spread: float
    """Half of the distance between the least and the greatest, as a share of the mean."""
    synchronous: bool
    half_width: float = 0.0
    """The share by which it may be off for steps that were not simulated, with 95 % confidence."""
    unsettled: bool = False
    """See Result.unsettled."""
    local: bool = False
    """Whether workers train alone between two rounds."""
    too_few: str = ""
    """What to ask for when it is unsettled."""

    @property
    def sort(self) -> str:
        """Of strategies that are not synchronous, for people."""
        return LOCAL_SGD if self.local else "asynchronous"

    @property
    def uncertainty(self) -> float:
        """Of seeds and of steps that were not simulated, as a share."""
        return self.spread + self.half_width

    @staticmethod
    def of(results: Sequence[Result]) -> Estimate:
        """Of at least one result."""
        values = [result.throughput for result in results]
        mean = fmean(values)
        spread = (max(values) - min(values)) / 2 / mean
        half_width = max(result.half_width for result in results)
        first = results[0]
        unsettled = any(result.unsettled for result in results)
        return Estimate(mean, spread, first.synchronous, half_width, unsettled, first.local,
                        first.too_few() if unsettled else "")  # fmt: skip


@dataclass
class Recommendation:
    """The answer, and what it rests on."""

    best: str
    estimates: dict[str, Estimate]
    """All that worked, the fastest first."""
    changes: dict[str, str] = field(default_factory=dict)
    """The winner after each change that was tried."""
    compressed: tuple[str, float] | None = None
    """The best, or plain all-reduce, with gradients as bfloat16; and by how much more than the best
    that does, as a share."""
    local: tuple[str, float] | None = None
    """The same of local SGD, where no candidate is."""
    impossible: dict[str, str] = field(default_factory=dict)
    """Changes that could not be tried, and strategies that do not work here; and why."""
    accuracy: Accuracy | None = None

    @property
    def runner_up(self) -> str | None:
        """The fastest of those that really differ from the best: "auto" runs one of the others."""
        return self._other(lambda name, estimate: True)

    @property
    def best_synchronous(self) -> str | None:
        """The fastest whose updates are those of one process."""
        return next((name for name, e in self.estimates.items() if e.synchronous), None)

    @property
    def margin(self) -> float:
        """Uncertainty of a throughput, as a share: of the estimate, or of the model if that is
        known and greater."""
        return max(
            self.estimates[self.best].uncertainty,
            self.accuracy.mean_absolute_error if self.accuracy else 0.0,
        )

    @property
    def tolerance(self) -> float:
        """By how much another one must be faster to be the winner."""
        return max(self.margin, SAME)

    def gain_over(self, other: str) -> float:
        """By how much more the best does, as a share."""
        return self.estimates[self.best].mean / self.estimates[other].mean - 1

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "best": self.best,
            "runner_up": self.runner_up,
            "margin": self.margin,
            "estimates": {name: asdict(e) for name, e in self.estimates.items()},
            "changes": self.changes,
            "compressed": self.compressed,
            "local": self.local,
            "impossible": self.impossible,
            "accuracy": None if self.accuracy is None else asdict(self.accuracy),
            "text": self.text(),
        }

    def text(self) -> str:
        """One paragraph."""
        sentences = [
            *self._answer(),
            *self._certainty(),
            *self._alternatives(),
            self._compression(),
            self._local(),
            self._flips(),
        ]
        return " ".join(filter(None, sentences))

    def _other(self, wanted: Callable[[str, Estimate], bool]) -> str | None:
        return next(
            (
                name
                for name, estimate in self.estimates.items()
                if self.gain_over(name) > SAME and wanted(name, estimate)
            ),
            None,
        )

    def _answer(self) -> list[str]:
        mean = self.estimates[self.best].mean
        said = [f"Use {self.best}: {per_second(mean)} samples/s expected."]
        same = [n for n in self.estimates if n != self.best and abs(self.gain_over(n)) <= SAME]
        if same:
            said.append(f"Equally fast here: {', '.join(same)}.")
        gains = [
            f"{100 * self.gain_over(name):.1f} % more than {what}{name}"
            for what, name in (("the runner-up, ", self.runner_up), ("plain ", PLAIN))
            if name in self.estimates and name != self.best and name not in same
        ]
        if self.runner_up == PLAIN:
            del gains[1:]
        if gains:
            said.append(f"That is {' and '.join(gains)}.")
        return said

    def _certainty(self) -> list[str]:
        best = self.estimates[self.best]
        seeds = f"{SEEDS} seeds differ by ±{100 * best.spread:.1f} %"
        if best.half_width > 0:
            seeds += f", steps that were not simulated add ±{100 * best.half_width:.1f} %"
        if self.accuracy is None:
            said = [f"Margin of error: {seeds}; the model is not validated on your machines: run "
                    "`gearshift calibrate`."]  # fmt: skip
        else:
            a = self.accuracy
            said = [
                f"Margin of error: {seeds}; in {a.configurations} configurations the model was "
                f"{100 * a.mean_absolute_error:.1f} % off on average, in 95 % of them by no more "
                f"than {100 * a.p95_absolute_error:.1f} %."
            ]
        unsettled = [e for e in self.estimates.values() if e.unsettled]
        for sort, why in dict.fromkeys((e.sort, e.too_few or pace_hint()) for e in unsettled):
            said.append(f"{'Local SGD:' if sort == LOCAL_SGD else 'Asynchronous'} {why}.")
        for name, estimate in self.estimates.items():
            if self.gain_over(name) < -SAME:
                lead = 100 * (estimate.mean / best.mean - 1)
                sure = estimate.uncertainty <= self.margin
                doubt = "no more" if sure else f"give or take {100 * estimate.uncertainty:.1f} %"
                sort = "" if estimate.synchronous else f", {estimate.sort},"
                said.append(f"{name}{sort} is faster by {lead:.1f} %, {doubt}.")
        if self.runner_up is not None and self.gain_over(self.runner_up) <= self.margin:
            said.append(f"Within that margin it cannot be told from {self.runner_up}.")
        return said

    def _alternatives(self) -> list[str]:
        if self.estimates[self.best].synchronous:
            return []
        other, best = self.best_synchronous, self.estimates[self.best]
        who = "workers that train alone between two rounds" if best.local else "stale gradients"
        text = (
            f"It is {best.sort}: samples per second say nothing about how much a sample teaches, "
            f"and {who} can need more of them"
        )
        if other is None:
            return [f"{text}."]
        lag = 1 - self.estimates[other].mean / self.estimates[self.best].mean
        return [f"{text}; the best whose updates are those of one process is {other}, "
                f"{100 * lag:.1f} % slower."]  # fmt: skip

    def _compression(self) -> str:
        if self.compressed is None or self.compressed[1] <= self.tolerance:
            return ""
        name, gain = self.compressed
        what = "Changes of parameters" if uses_local(parse(name)) else "Gradients"
        return (
            f"{what} as bfloat16, which are rounded to eight binary places ({name}), would do "
            f"{100 * gain:.1f} % more."
        )

    def _local(self) -> str:
        if self.local is None or self.local[1] <= self.tolerance:
            return ""
        name, gain = self.local
        return (
            f"With {name}, workers would train alone and average their parameters every "
            f"{LOCAL_STEPS} steps, and do {100 * gain:.1f} % more samples per second; how many "
            "more of them the same quality takes, only training tells."
        )

    def _flips(self) -> str:
        flips: dict[str, list[str]] = {}
        for change, winner in self.changes.items():
            if winner != self.best:
                flips.setdefault(winner, []).append(change)
        tried = ", ".join(self.changes)
        if not flips:
            return f"None of these changes the answer: {tried}." if tried else ""
        parts = [f"{winner} with {' or '.join(changes)}" for winner, changes in flips.items()]
        stays = [change for change, winner in self.changes.items() if winner == self.best]
        text = f"What would change the answer: {'; '.join(parts)}"
        return f"{text}. It stays with {', '.join(stays)}." if stays else f"{text}."


def recommend(
    cluster: Source, workload: Source, strategies: Sequence[str], batch: Batch
) -> Recommendation:
    """Simulate the candidates with several seeds, then changes of the cluster.

    Args:
        strategies: the candidates; none: :data:`CANDIDATES`.

    Raises:
        InvalidArgument: when the files are wrong, or no candidate can be.
        Error: when training failed with all of them.
    """
    cluster_facts = describe_cluster(cluster.text, cluster.name)
    names = list(strategies) or _candidates(cluster_facts)
    first = batch.run([Job(cluster, workload, name) for name in names], "candidates")
    worked, impossible = _sort_out(names, first)
    greatest = max(result.throughput for result in worked.values())
    near = [name for name, r in worked.items()
            if r.throughput * _OUT_OF_REACH > greatest or name == PLAIN]  # fmt: skip
    seeds = range(batch.settings.seed + 1, batch.settings.seed + SEEDS)
    jobs = [Job(cluster, workload, name, seed) for name in near for seed in seeds]
    results = {name: [worked[name]] for name in worked}
    failed: dict[str, Result | Error] = {}
    for job, more in zip(jobs, batch.run(jobs, "seeds"), strict=True):
        if isinstance(more, Result) and more.failure is None:
            results[job.strategy].append(more)
        else:  # chance decides whether it works
            failed[job.strategy] = more
    if len(failed) == len(results):
        _sort_out(list(failed), list(failed.values()))  # raises why
    impossible |= {name: _why(result) for name, result in failed.items()}
    near = [name for name in near if name not in failed]
    estimates = {n: Estimate.of(found) for n, found in results.items() if n not in failed}
    ordered = _ordered(estimates)
    accuracy = Accuracy.load()
    answer = Recommendation(
        _settle(ordered, accuracy), ordered, impossible=impossible, accuracy=accuracy
    )
    usual = results[answer.best][0].throughput
    answer.compressed = _try_compression(answer, usual, Job(cluster, workload, ""), batch)
    if not any(uses_local(parse(name)) for name in names):
        answer.local = _try_local(usual, Job(cluster, workload, LOCAL), batch)
    _try_changes(answer, cluster, workload, near, batch)
    return answer


def _try_compression(
    answer: Recommendation, usual: float, job: Job, batch: Batch
) -> tuple[str, float] | None:
    """Of the best one, which does `usual` samples per second, and of plain all-reduce.

    None: neither is without and works with it.
    """
    names = [_compressed(n) for n in dict.fromkeys((answer.best, PLAIN)) if n in answer.estimates]
    jobs = [replace(job, strategy=name) for name in names if name is not None]
    found = {
        job.strategy: result.throughput
        for job, result in zip(jobs, batch.run(jobs, "gradients as bfloat16"), strict=True)
        if isinstance(result, Result) and result.failure is None
    }
    if not found:
        return None
    fastest = max(found, key=found.__getitem__)
    return fastest, found[fastest] / usual - 1


def _try_local(usual: float, job: Job, batch: Batch) -> tuple[str, float] | None:
    """None: it does not work, or too few steps are simulated to tell."""
    (result,) = batch.run([job], LOCAL_SGD)
    if not isinstance(result, Result) or result.failure is not None or result.unsettled:
        return None
    return job.strategy, result.throughput / usual - 1


def _compressed(strategy: str) -> str | None:
    """None: it is already, or switches."""
    value = parse(strategy)
    if isinstance(value, StrategySwitch) or value.compression != "none":
        return None
    return to_text(replace(value, compression="bf16"))


def _candidates(cluster: Mapping[str, Any]) -> list[str]:
    """Those that can be: shards are for clusters without dedicated servers."""
    return [name for name in CANDIDATES if not (cluster["servers"] and "shards=" in name)]


def _sort_out(
    names: Sequence[str], found: Sequence[Result | Error]
) -> tuple[dict[str, Result], dict[str, str]]:
    worked, impossible = {}, {}
    for name, result in zip(names, found, strict=True):
        if isinstance(result, Result) and result.failure is None:
            worked[name] = result
        else:
            impossible[name] = _why(result)
    if not worked:
        first = found[0]
        raise first if isinstance(first, Error) else Error(str(first.failure))
    return worked, impossible


def _why(failed: Result | Error) -> str:
    return str(failed if isinstance(failed, Error) else failed.failure)


def _ordered(estimates: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """The fastest first."""
    return dict(sorted(estimates.items(), key=lambda item: -item[1].mean))


def _settle(ordered: Mapping[str, Estimate], accuracy: Accuracy | None) -> str:
    """The fastest, or one that is as fast as far as can be told, and better in another respect.

    Plain all_reduce, which adapts to what changes; and updates of one process before stale ones.
    """
    first = next(iter(ordered))
    if not ordered[first].synchronous:
        other = next((name for name, e in ordered.items() if e.synchronous), first)
        first = _preferred(other, first, ordered, accuracy)
    return _preferred(PLAIN, first, ordered, accuracy) if PLAIN in ordered else first


def _preferred(
    better: str, faster: str, found: Mapping[str, Estimate], accuracy: Accuracy | None
) -> str:
    """`better`, unless the other one is faster by more than the margin of error."""
    model = accuracy.mean_absolute_error if accuracy else None
    margin = margin_of_error(found[faster].uncertainty, model)
    return better if found[better].mean * (1 + margin) >= found[faster].mean else faster


def _try_changes(
    answer: Recommendation, cluster: Source, workload: Source, names: Sequence[str], batch: Batch
) -> None:
    jobs: list[tuple[str, Job]] = []
    for change, apply in _changes(cluster).items():
        document = cluster.document()
        try:
            apply(document)
        except Error as error:
            answer.impossible[change] = str(error)
            continue
        changed = cluster.changed(document, change)
        jobs += [(change, Job(changed, workload, name)) for name in names]
    found = batch.run([job for _, job in jobs], "what would change it")
    by_change: dict[str, dict[str, Result | Error]] = {}
    for (change, job), result in zip(jobs, found, strict=True):
        by_change.setdefault(change, {})[job.strategy] = result
    for change, results in by_change.items():
        try:
            worked, _ = _sort_out(list(results), list(results.values()))
        except Error as error:  # of all of them
            answer.impossible[change] = str(error)
            continue
        answer.changes[change] = _winner(answer, worked)


def _winner(answer: Recommendation, worked: Mapping[str, Result]) -> str:
    """What to use after a change: the same as before, unless another one is really faster."""
    estimates = {name: Estimate.of([result]) for name, result in worked.items()}
    ordered = _ordered(estimates)
    fastest = next(iter(ordered.values())).mean
    best = estimates.get(answer.best)
    if best is not None and best.mean * (1 + answer.tolerance) >= fastest:
        return answer.best
    return _settle(ordered, answer.accuracy)


def _changes(cluster: Source) -> dict[str, Callable[[scaling.Document], None]]:
    workers = describe_cluster(cluster.text, cluster.name)["workers"]
    sizes = [2 * workers, workers // 2] if workers > 1 else [2]
    return {
        "twice the bandwidth": partial(scaling.scale_bandwidth, factor=2.0),
        "half the bandwidth": partial(scaling.scale_bandwidth, factor=0.5),
        **{_workers(cluster, n): partial(scaling.scale_workers, workers=n) for n in sizes},
        "a straggler (half as fast)": partial(scaling.add_straggler, factor=2.0),
    }


def _workers(cluster: Source, workers: int) -> str:
    """So many workers, and on how many hosts where those have several: hosts are repeated."""
    named, document = count(workers, "worker"), cluster.document()
    try:
        scaling.scale_workers(document, workers)
    except Error:
        return named  # why is told when it is tried
    hosts = scaling.hosts_with_workers(document)
    return named if hosts == workers else f"{named} on {count(hosts, 'host')}"
