"""kill -9 and kill -STOP of any process, under any strategy: the failure contract.

A round of a strategy runs six jobs side by side: rank 0, a rank in the middle and a dedicated
server are killed, and stopped. The first round hits them in mid-run; the others, of which
GEARSHIFT_CHAOS_ROUNDS asks for, at random moments (GEARSHIFT_CHAOS_SEED repeats them). Times are
measured from outside and bounded generously; a table of them ends the output of `make chaos`.
Another round stops processes for less than the timeout.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import time
from dataclasses import dataclass, field

import pytest

ROUNDS = int(os.environ.get("GEARSHIFT_CHAOS_ROUNDS", "1"))
SEED = os.environ.get("GEARSHIFT_CHAOS_SEED", str(time.time_ns() % 10**6))

KILL_TIMEOUT = 30.0
"""A death is seen by the connections that break, so it must be noticed long before the timeout."""
STOP_TIMEOUT = 3.0
START_TIMEOUT = 3.0
"""Before all have met, nobody notices a frozen rank, and the start may take ten timeouts."""
SLACK = 15.0
"""Seconds that a busy machine may need on top."""

NEVER = "1000000000"
STRATEGIES = {
    "all_reduce": (("all_reduce",), (), "all_reduce"),
    "local_sgd": (("local_sgd", "switch_local"), ("--switch-at", "4"), "local_sgd"),
    "bsp": (("bsp",), (), "server"),
    "asp": (("asp", "ssp", "buffered"), (), "server"),
    "switch_before": (("switch", "switch_bsp"), ("--switch-at", NEVER), "all_reduce"),
    "switch_after": (("switch", "switch_bsp"), ("--switch-at", "4"), "server"),
}
"""Strategies to choose from (the first in the first round), arguments, and phase in mid-run."""
PAUSED = {
    "all_reduce": ("all_reduce", 0, ()),
    "bsp": ("bsp", 0, ()),
    "server": ("bsp", 1, ()),
    "switches": ("switch_bsp", 0, ("--switch-at", "10", "--back-at", "25")),
}
"""Strategies whose result is that of one process: dedicated servers, and arguments."""
PAUSED_STEPS = 40
VICTIMS = {"first": 0, "middle": 1, "server": 4}
WORKERS = 4
TRAINING = ("all_reduce", "local_sgd", "server", "switch", "back", "end")


@dataclass
class Case:
    """One job, what is done to it, and when."""

    name: str
    rank: int
    number: signal.Signals
    strategy: str
    arguments: tuple[str, ...]
    phase: str
    moment: str = "mid-run"
    delay: float = 0.0
    transports: str = ""
    job: object = field(default=None, repr=False)

    @property
    def timeout(self) -> float:
        if self.moment == "connect":
            return START_TIMEOUT
        return KILL_TIMEOUT if self.number == signal.SIGKILL else STOP_TIMEOUT

    @property
    def limit(self) -> float:
        """Seconds after which the last survivor must have ended."""
        if self.moment == "connect":
            return 10 * START_TIMEOUT + SLACK
        if self.number == signal.SIGKILL:
            return KILL_TIMEOUT / 2
        return 2 * STOP_TIMEOUT + SLACK

    def start(self, jobs) -> None:
        more = {
            "switch": ("--switch-at", "6", "--back-at", "12", "--switch-ms", "300"),
            "switch back": ("--switch-at", "3", "--back-at", "8", "--switch-ms", "300"),
            "end": ("--steps", "20", "--end-ms", "150"),
        }.get(self.moment, ())
        self.job = jobs.start(
            self.name,
            *("--strategy", self.strategy, "--step-ms", "20", *self.arguments, *more),
            workers=WORKERS,
            servers=int(self.rank >= WORKERS),
            timeout=self.timeout,
            env={"GEARSHIFT_TRANSPORTS": self.transports},
        )

    def has_come(self) -> bool:
        """Whether the moment is there."""
        places = [self.job.place(rank) for rank in self.job.ranks]
        mine = places[self.rank]
        if mine is None or self.job.process.poll() is not None:
            return self.job.process.poll() is not None
        if self.moment == "connect":
            return True
        seen = [place for place in places[:WORKERS] if place is not None]
        if self.moment in ("switch", "switch back", "end"):
            phase = self.moment.rpartition(" ")[2]
            return any(place.phase == phase for place in seen)
        step = 1 if self.moment == "first step" else 8
        phases = TRAINING if self.moment == "first step" else (self.phase,)
        return len(seen) == WORKERS and all(p.phase in phases and p.step >= step for p in seen)


def draw(strategy: str, number_of_round: int) -> list[Case]:
    """The cases of a round."""
    chance = random.Random(f"{SEED} {strategy} {number_of_round}")
    variants, arguments, phase = STRATEGIES[strategy]
    cases = []
    for victim, rank in VICTIMS.items():
        for number in (signal.SIGKILL, signal.SIGSTOP):
            name = f"{strategy}-{number_of_round}-{victim}-{number.name}"
            case = Case(name, rank, number, variants[0], arguments, phase)
            if number_of_round > 0:
                moments = ["connect", "first step", "mid-run", "end"]
                moments += ["switch", "switch back"] * strategy.startswith("switch")
                case.moment = chance.choice(moments)
                case.delay = chance.uniform(0, 0.1 if case.moment == "connect" else 0.4)
                case.strategy = chance.choice(variants)
                case.transports = chance.choice(["", "tcp"])
                if victim == "middle":
                    case.rank = chance.randrange(1, WORKERS)
            cases.append(case)
    return cases


def strike(cases: list[Case]) -> None:
    """Hit every job's victim at its moment."""
    waiting = list(cases)
    due: list[tuple[float, Case]] = []
    deadline = time.monotonic() + 60
    while (waiting or due) and time.monotonic() < deadline:
        now = time.monotonic()
        for case in [case for case in waiting if case.has_come()]:
            waiting.remove(case)
            due.append((now + case.delay, case))
        for entry in [entry for entry in due if now >= entry[0]]:
            due.remove(entry)
            hit(entry[1])
        time.sleep(0.01)
    stuck = [f"{case}: {case.job.err}" for case in waiting]
    assert not stuck, "\n".join(["never came to the moment", *stuck])


def hit(case: Case) -> None:
    job = case.job
    if case.moment in ("mid-run", "first step") and job.process.poll() is None:
        assert job.named_files_in_memory() == []
    try:
        job.hit(case.rank, case.number)
    except (KeyError, ProcessLookupError):
        assert case.moment == "end", f"{case} ended before it was hit:\n{job.err}"


def check(case: Case, contract, clean) -> None:
    """The contract; while a job starts or ends, as much of it as can hold there."""
    job = case.job
    slowest = max(job.ends.values(), default=0.0)
    assert slowest < case.limit, f"took {slowest:.1f} s\n{job.err}"
    if case.moment not in ("connect", "end"):
        contract(job)
        return
    clean(job)
    assert "then killed by" not in job.err, job.err
    if case.moment == "end" and job.process.returncode == 0:
        return  # the victim was done already
    assert job.process.returncode == 128 + signal.SIGKILL, job.err
    who = f"(rank {case.rank})" if case.rank >= WORKERS else f"rank {case.rank}"
    assert re.search(rf"{re.escape(who)} failed first: (killed by SIGKILL|frozen)", job.err)
    if case.moment == "end":
        assert "ended by the launcher" not in job.err, job.err


@pytest.mark.chaos
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_contract(jobs, contract, clean, failure_table, strategy):
    wrong = []
    for number_of_round in range(ROUNDS):
        cases = draw(strategy, number_of_round)
        for case in cases:
            case.start(jobs)
        strike(cases)
        jobs.observe([case.job for case in cases])
        for case in cases:
            verdict = "ok"
            try:
                check(case, contract, clean)
            except AssertionError as error:
                verdict = "WRONG"
                wrong.append(f"{case}\n{error}")
            failure_table.add(case, verdict)
    assert not wrong, "\n\n".join([f"seed {SEED}", *wrong])


@pytest.mark.chaos
def test_a_pause_within_the_timeout_changes_nothing(jobs, clean, expected_result, until):
    """Of any process, the launcher among them. From the second round on, at random moments."""
    for number_of_round in range(ROUNDS):
        chance = random.Random(f"{SEED} pause {number_of_round}")
        paused = []
        for name, (strategy, servers, arguments) in PAUSED.items():
            job = jobs.start(
                f"pause-{number_of_round}-{name}",
                *("--strategy", strategy, "--steps", str(PAUSED_STEPS), "--step-ms", "20"),
                *arguments,
                workers=3,
                servers=servers,
                timeout=KILL_TIMEOUT,
                env={"GEARSHIFT_TRANSPORTS": chance.choice(["", "tcp"])},
            )
            paused.append((job, chance.choice(["launcher", *job.ranks])))
        for job, victim in paused:
            pause(job, victim, until, chance if number_of_round > 0 else None)
        time.sleep(0.5)
        for job, victim in paused:
            send(job, victim, signal.SIGCONT)
        for job, victim in paused:
            assert job.finish() == 0, f"seed {SEED}, {victim}:\n{job.err}"
            exact = pytest.approx(expected_result(3, PAUSED_STEPS), rel=1e-9, abs=1e-12)
            assert job.result() == exact, f"seed {SEED}, {victim}"
            clean(job)


def pause(job, victim: int | str, until, chance: random.Random | None) -> None:
    """Stop a process of a job: in mid-run, or when chance says so."""
    step = 5 if chance is None else chance.choice([0, 0, 5])
    phases = (*TRAINING, "start", "serve") if step == 0 else TRAINING
    until(lambda: job.process.poll() is not None or job.has_come(phases, step), "all are there")
    if chance is not None:
        time.sleep(chance.uniform(0, 0.3))
    send(job, victim, signal.SIGSTOP)


def send(job, victim: int | str, number: signal.Signals) -> None:
    """Nothing happens when the process has ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(job.process.pid if victim == "launcher" else job.place(victim).pid, number)


def test_frozen_rank_that_wakes_up(toy_trainer, clean_env, tmp_path, until):
    """Without our launcher nobody kills it; when it goes on, it finds itself given up and ends."""
    common = {
        "GEARSHIFT_WORLD_SIZE": "3",
        "GEARSHIFT_RDZV": f"file://{tmp_path}/store",
        "GEARSHIFT_TOKEN": "e" * 64,
        "GEARSHIFT_TIMEOUT": str(STOP_TIMEOUT),
    }
    ranks = [
        subprocess.Popen(
            [toy_trainer, "--step-ms", "20", "--progress", tmp_path],
            env=clean_env({**common, "GEARSHIFT_RANK": str(rank)}),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(3)
    ]
    try:
        until(lambda: (tmp_path / "rank-1").exists(), "rank 1 starts")
        until(lambda: " all_reduce " in (tmp_path / "rank-1").read_text(), "rank 1 trains")
        ranks[1].send_signal(signal.SIGSTOP)
        for rank in (0, 2):
            assert "rank 1 has been silent" in ranks[rank].communicate(timeout=60)[1]
            assert ranks[rank].returncode == 75
        ranks[1].send_signal(signal.SIGCONT)
        assert re.search("rank 1|gave up on this one", ranks[1].communicate(timeout=60)[1])
        assert ranks[1].returncode == 75
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
