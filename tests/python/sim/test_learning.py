"""Simulations that learn: equal to one process where they must be, stale where time says so."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

import gearshift as gs
from gearshift.sim import forks, processes
from gearshift.sim.forks import Forked, Forks
from gearshift.sim.inputs import read_cluster, read_workload
from gearshift.sim.messages import Request
from gearshift.sim.processes import Pool
from gearshift.sim.simulation import make_request
from gearshift.strategy import parse

torch = pytest.importorskip("torch")

from gearshift_testing import learning_tasks as tasks  # noqa: E402
from gearshift_testing.learning import (  # noqa: E402
    THERE_AND_BACK,
    ForkedPool,
    alone,
    assert_equal_models,
    cluster,
    learn,
    workload,
)
from gearshift_testing.processes import await_end  # noqa: E402

from gearshift.torch import _simulated  # noqa: E402

pytestmark = pytest.mark.skipif(
    not any(Path(gs.__file__).parent.glob("_sim*.so")), reason="built without SimGrid"
)


@pytest.mark.parametrize("task", ["sgd", "adam"])
@pytest.mark.parametrize(
    ("workers", "strategy"),
    [
        (1, "all_reduce"),
        (2, "all_reduce"),
        (3, "all_reduce"),
        (1, "ps:bsp"),
        (2, "ps:bsp"),
        (3, "ps:bsp(shards=2)"),
        (1, "ps:asp"),
        (3, THERE_AND_BACK),
    ],
)
def test_as_one_process_with_the_batches_of_all(
    task: str, workers: int, strategy: Any, tmp_path: Path
) -> None:
    result = learn(task, cluster(workers), strategy, tmp_path / "model.pt")
    assert_equal_models(tmp_path / "model.pt", alone(task, workers))
    assert [point.step for point in result.curve] == [10, 20, 30]
    assert result.diverged is None
    if strategy is THERE_AND_BACK:
        assert [switch["step"] for switch in result.switches] == [8, 20]


def test_a_repetition_is_equal_to_the_last_bit(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.pt" for i in range(3)]
    results = [
        learn("dropout", cluster(4), "ps:asp", path, seed=seed)
        for path, seed in zip(paths, (1, 1, 2), strict=True)
    ]
    assert results[0].curve == results[1].curve != results[2].curve
    states = [torch.load(path, weights_only=True) for path in paths]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("strategy", ["all_reduce", "ps:bsp"])
def test_compressed_gradients_are_rounded(strategy: str, tmp_path: Path) -> None:
    states = []
    for text in (strategy, f"{strategy}(compression=bf16)"):
        learn("in_float32", cluster(2), text, tmp_path / "model.pt")
        states.append(torch.load(tmp_path / "model.pt", weights_only=True))
    training = tasks.in_float32()
    for step in range(1, 31):
        shares = []
        for worker in (0, 1):
            training.optimizer.zero_grad()
            training.loss(training.model, training.batch(worker, step, 2)).backward()
            shares.append([(p.grad / 2).bfloat16().float() for p in training.model.parameters()])
        for parameter, first, second in zip(training.model.parameters(), *shares, strict=True):
            total = first + second
            parameter.grad = total.bfloat16().float() if strategy == "all_reduce" else total
        training.optimizer.step()
    for name, wanted in training.model.state_dict().items():
        whole, rounded = (float((s[name] - wanted).norm() / wanted.norm()) for s in states)
        # A sum in another order may come to lie on the other side of a tie, now and then.
        assert rounded < 1e-4 < 2e-4 < whole, name


def test_learning_takes_no_virtual_time() -> None:
    result = learn("sgd", cluster(3), "all_reduce")
    plain = gs.simulate(cluster(3), workload(tasks.sgd()), "all_reduce", steps=30)
    assert plain.curve == ()
    assert plain.step_seconds == result.step_seconds


def test_the_last_step_has_a_point_however_rare_they_are() -> None:
    result = learn("sgd", cluster(2), "all_reduce", steps=5, evaluate_every=2**40)
    assert [point.step for point in result.curve] == [5]


def test_unused_and_frozen_parameters_stay(tmp_path: Path) -> None:
    learn("partial", cluster(2), "all_reduce", tmp_path / "model.pt")
    assert_equal_models(tmp_path / "model.pt", alone("partial", 2))


@pytest.mark.parametrize("strategy", ["all_reduce", "ps:asp"])
def test_one_worker_s_statistics_of_batches(strategy: str, tmp_path: Path) -> None:
    learn("batch_norm", cluster(1), strategy, tmp_path / "model.pt")
    assert_equal_models(tmp_path / "model.pt", alone("batch_norm", 1))


@pytest.mark.parametrize("strategy", ["all_reduce", "ps:asp"])
def test_evaluations_see_the_statistics_of_worker_0(strategy: str, tmp_path: Path) -> None:
    learn("batch_norm", cluster(3), strategy, tmp_path / "model.pt")
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    assert int(state["1.num_batches_tracked"]) == 30


def test_under_all_reduce_worker_0_s_buffers_are_everybody_s(tmp_path: Path) -> None:
    learn("remembers", cluster(3), "all_reduce", tmp_path / "model.pt", steps=6)
    training = tasks.remembers()
    for step in range(1, 7):
        last = training.model.last
        training.optimizer.zero_grad()
        for worker in (1, 2, 0):
            training.model.last = last
            (training.loss(training.model, training.batch(worker, step, 3)) / 3).backward()
        training.optimizer.step()
    assert_equal_models(tmp_path / "model.pt", training.model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("3", "6 ms"), 'forward: "3" is no time'),
        ((None, "6 ms"), "forward=None: must be a number"),
        (("3 ms", True), "backward=True: must be a number"),
        (("3 ms", "6 ms", "x"), 'optimizer: "x" is no time'),
        (("3 ms", "6 ms", 0, 1.5), "batch_size: must be a whole number"),
        (("3 ms", "6 ms", 0, 1, 3), "name=3: must be a text"),
    ],
)
def test_a_workload_of_a_training_names_what_is_wrong(arguments: Any, message: str) -> None:
    with pytest.raises(gs.InvalidArgument, match=f"^{message}"):
        tasks.sgd().workload(*arguments)


def test_steps_of_an_epoch_are_a_whole_number() -> None:
    training = tasks.sgd()
    training.steps_per_epoch = 1.5  # type: ignore[assignment]
    with pytest.raises(gs.InvalidArgument, match=r"steps_per_epoch=1\.5: must be a whole number"):
        _simulated.check_training(training)


def test_stale_gradients_teach_less() -> None:
    where = cluster(8, stragglers=[{"host": "n-7", "factor": 3.0}])
    fresh = learn("steep", where, "all_reduce", steps=40)
    stale = learn(
        "steep", where, gs.ParameterServer(gs.ASP(), lr_scaling="keep"), steps=40, evaluate_every=4
    )
    assert stale.mean_staleness is not None
    assert stale.mean_staleness > 4
    assert fresh.curve[-1].metric == pytest.approx(0, abs=1e-4)
    assert stale.diverged is not None
    assert stale.curve[-1].metric < fresh.curve[0].metric
    assert stale.step_seconds.mean < fresh.step_seconds.mean / 1.5


def test_the_result_tells_what_was_learnt(tmp_path: Path) -> None:
    result = learn("sgd", cluster(2), "all_reduce")
    first, *_, last = result.curve
    assert last.metric is not None
    assert first.metric is not None
    assert first.metric < last.metric
    assert last.seconds == pytest.approx(result.raw["workers"][0]["end"][-1])
    assert result.time_to(first.metric) == first.seconds
    halfway = result.time_to((first.metric + last.metric) / 2)
    assert halfway is not None
    assert first.seconds < halfway < last.seconds
    assert result.time_to(0.1) is None
    assert result.to_dict()["curve"][-1]["step"] == 30
    assert f"loss {last.loss:.4g}" in result.summary()
    pytest.importorskip("pandas")
    assert list(result.curve_frame()["step"]) == [10, 20, 30]
    pytest.importorskip("matplotlib")
    assert result.plot(tmp_path / "plot.png").stat().st_size > 10_000


def test_without_a_metric_there_are_losses() -> None:
    result = learn("no_metric", cluster(1), "all_reduce")
    assert [point.metric for point in result.curve] == [None] * 3
    assert result.curve[0].loss > result.curve[-1].loss
    assert result.time_to(0.0) is None


@pytest.mark.parametrize("strategy", ["all_reduce", "ps:bsp", "ps:asp"])
def test_a_loss_that_is_none_is_an_outcome(strategy: str) -> None:
    result = learn("not_a_number", cluster(2), strategy, evaluate_every=1)
    assert result.diverged is not None
    assert (result.diverged.worker, result.diverged.step) == (1, 3)
    assert result.diverged.reason == "the loss is nan"
    assert result.diverged.seconds == result.raw["workers"][1]["begin"][3]
    assert result.curve
    assert all(point.seconds <= result.diverged.seconds for point in result.curve)
    assert "diverged after step 3 at" in result.summary()
    assert result.to_dict()["diverged"]["worker"] == 1


def test_a_loss_that_the_server_finds_too_great_is_an_outcome() -> None:
    result = learn("explodes", cluster(3), "ps:asp", evaluate_every=2)
    assert result.diverged is not None
    assert "the smoothed loss rose" in result.diverged.reason
    assert result.diverged.seconds == result.virtual_seconds > 0
    assert result.failure is None
    assert result.curve
    ends = [worker["end"] for worker in result.raw["workers"]]
    assert all(point.seconds == ends[0][point.step - 1] for point in result.curve)
    tame = learn("sgd", cluster(3), "ps:asp")
    assert ends == [
        worker["end"][: len(end)] for end, worker in zip(ends, tame.raw["workers"], strict=True)
    ]


def test_a_training_that_diverges_in_its_warm_up_has_figures() -> None:
    result = learn("explodes", cluster(32), "ps:asp", warmup=25)
    assert result.diverged is not None
    assert result.diverged.step < 25
    assert result.throughput > 0


def test_switches_that_waited_for_the_loss_are_told_when_it_runs_away() -> None:
    soon = gs.LossPlateau(window=1, threshold=1e300)
    strategy = gs.StrategySwitch(gs.AllReduce(), gs.ParameterServer(gs.ASP()), soon)
    result = learn("explodes_in_epochs", cluster(3), strategy, steps=60)
    (switch,) = result.switches
    assert 6 <= switch["step"] < 12  # known after the second epoch
    assert result.diverged is not None
    assert "the smoothed loss rose" in result.diverged.reason
    assert result.diverged.step > switch["step"]
    assert result.diverged.seconds > result.raw["workers"][0]["end"][switch["step"] - 1]


@pytest.mark.parametrize(
    ("task", "kind", "told"),
    [
        ("unknown_rule", gs.Unsupported, "RMSprop cannot be simulated"),
        ("transposed", gs.InvalidArgument, r"'0.weight' is not contiguous \(strides \(1, 16\)"),
        ("forgets_one", gs.InvalidArgument, "does not have parameter '0.weight'"),
        ("raises", gs.InvalidArgument, "ValueError: this loss is not ready"),
        ("no_number", gs.InvalidArgument, r"loss\(\) must return a tensor of one number"),
        ("nothing", gs.InvalidArgument, "nothing returned an int, no SimulatedTraining"),
        ("nowhere", gs.InvalidArgument, 'has no function "nowhere"; its functions are batch,'),
    ],
)
def test_what_cannot_be_learnt(task: str, kind: type[gs.Error], told: str) -> None:
    with pytest.raises(kind, match=told) as caught:
        learn(task, cluster(2), "all_reduce", workload=workload(tasks.sgd()))
    if task == "raises":
        line = 'raise ValueError("this loss is not ready")'
        assert f'learning_tasks.py", line {_line_of(line)}, in wrong\n    {line}' in str(
            caught.value
        )


def _line_of(text: str) -> int:
    lines = Path(tasks.__file__).read_text(encoding="utf-8").splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"name": "weight"}, r"parameters\[2\] is 'weight' float64\[16, 16\] in the workload, "
                             r"'2.weight' float64\[16, 16\] in the model"),
        ({"shape": [4, 64]}, r"float64\[4, 64\] in the workload"),
        ({"dtype": "float32"}, r"float32\[16, 16\] in the workload"),
        ({}, r"it has 7 parameters, the model 6 trainable ones; only the workload has 'more'"),
        (None, r"it has 5 parameters, the model 6 trainable ones; only the model has '4.bias'"),
    ],
)  # fmt: skip
def test_a_workload_of_another_model(change: dict[str, Any] | None, told: str) -> None:
    found = tasks.sgd().parameters()
    entries: list[dict[str, Any]] = [
        {"name": name, "shape": list(p.shape), "dtype": "float64"} for name, p in found
    ]
    if change is None:
        entries.pop()
    elif change:
        entries[2] |= change
    else:
        entries.append({"name": "more", "shape": [1]})
    other = {"batch_size": 4, "forward": 0.001, "backward": 0.002, "parameters": entries}
    with pytest.raises(gs.InvalidArgument, match=told):
        learn("sgd", cluster(2), "all_reduce", workload=other)


FORKED_TASK = """
import os, random, signal, sys, time

import numpy
import torch
import gearshift.torch as gst


def loss(model, batch):
    return ((model(batch[0]) - batch[1]) ** 2).mean()


def batch(worker, step, workers):
    x = torch.randn(8, 4) + random.random() + numpy.random.rand()
    return x, x.sum(1, keepdim=True)


def training():
    # This one, and the one that sees its parent go.
    print(len(os.listdir("/proc/self/task")), "threads", file=sys.stderr)
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    return gst.SimulatedTraining(model, optimizer, loss, batch, lambda model: float(model.bias))


def fails():
    return missing_name


def dies():
    training()
    os.kill(os.getpid(), signal.SIGKILL)


def hangs():
    with open("pid", "w") as file:
        file.write(str(os.getpid()))
    time.sleep(600)
"""
FORKED_CLUSTER = '[[hosts]]\nname = "n"\ncount = 2\n'
FORKED_WORKLOAD = """
batch_size = 8
forward = "1 ms"
backward = "2 ms"
parameters = [{ name = "weight", shape = [1, 4] }, { name = "bias", shape = [1] }]
"""


def test_forks_compute_fail_and_end_as_other_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("task.py").write_text(FORKED_TASK)
    forked: list[Forked] = []
    start = Forks.start
    monkeypatch.setattr(Forks, "start", lambda *given: forked.append(start(*given)) or forked[-1])

    def request(function: str) -> Request:
        sources = read_cluster(FORKED_CLUSTER), read_workload(FORKED_WORKLOAD)
        train = f"{tmp_path}/task.py:{function}"
        return make_request(*sources, parse("ps:asp"), 6, 1, "sgd", False, train, 2)

    functions = ["training", "fails", "dies", "training", "hangs"]
    found: dict[int, dict[str, Any] | gs.Error] = {}

    def done(number: int, result: dict[str, Any] | gs.Error) -> None:
        found[number] = result
        if len(found) == 4:
            while not Path("pid").is_file() or not Path("pid").read_text():
                time.sleep(0.01)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Pool(2).run_all([request(name) for name in functions], done)
    assert sorted(found) == [0, 1, 2, 3]
    wanted = ForkedPool({}).run(request("training"))
    for number in (0, 3):
        result = found[number]
        assert isinstance(result, dict)
        assert [result[key] for key in ("curve", "workers")] == [wanted["curve"], wanted["workers"]]
    assert "missing_name" in str(found[1])
    assert "process was killed by SIGKILL (out of memory?); it said:\n  2 threads" in str(found[2])
    assert len(forked) == len(functions)
    assert -9 in [process.wait() for process in forked]
    await_end(int(Path("pid").read_text()))


def test_where_nothing_can_be_forked_from_processes_are_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forks.sys, "executable", "/bin/false")
    broken = Forks(os.environ)
    assert not broken.usable()
    with (tmp_path / "errors").open("wb") as errors:
        assert processes._forked(broken, errors) is None
    broken.close()
