"""What is given from Python: numbers of other libraries, and what is refused by its name."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gearshift as gs
from gearshift.sim import toml_text
from gearshift.sim.inputs import read_cluster, read_workload
from gearshift.sim.workload import Variability, Workload, WorkloadParameter

needs_simulator = pytest.mark.skipif(
    not any(Path(gs.__file__).parent.glob("_sim*.so")), reason="built without SimGrid"
)

CLUSTER: dict[str, Any] = {"hosts": [{"name": "n", "count": 2}]}
WORKLOAD: dict[str, Any] = {
    "batch_size": 8,
    "forward": "1 ms",
    "backward": "2 ms",
    "parameters": [{"name": "a", "shape": [64, 64]}],
}


def of_numpy() -> Workload:
    return Workload(
        name=np.str_("w"),
        batch_size=np.int64(8),  # type: ignore[arg-type]
        forward_seconds=np.float64(0.5),
        backward_seconds=np.float32(0.25),  # type: ignore[arg-type]
        optimizer_seconds=np.array(0.125),  # type: ignore[arg-type]
        parameters=(WorkloadParameter("a", np.array([2, 3]), ready_seconds=np.float64(0.1)),),
        variability=Variability("empirical", factors=np.array([0.5, 1.5])),
    )


PLAIN = Workload(
    name="w",
    batch_size=8,
    forward_seconds=0.5,
    backward_seconds=0.25,
    optimizer_seconds=0.125,
    parameters=(WorkloadParameter("a", (2, 3), ready_seconds=0.1),),
    variability=Variability("empirical", factors=(0.5, 1.5)),
)


@pytest.mark.parametrize("name", ["w.toml", "w.json"])
def test_a_workload_of_numpys_numbers_is_one_of_pythons(tmp_path: Path, name: str) -> None:
    assert of_numpy() == PLAIN
    assert repr(of_numpy()) == repr(PLAIN)
    of_numpy().save(tmp_path / name)
    assert Workload.load(tmp_path / name) == PLAIN
    assert read_workload(of_numpy()).text == read_workload(PLAIN).text
    spread = Variability("normal", np.float64(0.1))  # of a float's class
    Workload(**{**vars(PLAIN), "variability": spread}).save(tmp_path / name)
    assert Workload.load(tmp_path / name).variability == Variability("normal", 0.1)


def test_dicts_may_have_numpys_numbers() -> None:
    document = {
        "a": np.float64(0.5), "b": np.int64(3), "c": np.float32(0.5), "d": np.bool_(True),
        "e": np.array([1.0, 2.0]), "f": [np.int32(1), (np.float16(0.5),)], "g": np.array(7),
        "h": np.longdouble(0.5), "i": Fraction(1, 2), "t": {"x": np.float64(1e-9)},
        "u": [{"y": np.str_("z")}],
    }  # fmt: skip
    assert read_cluster(document).document() == {
        "a": 0.5, "b": 3, "c": 0.5, "d": True, "e": [1.0, 2.0], "f": [1, [0.5]], "g": 7,
        "h": 0.5, "i": 0.5, "t": {"x": 1e-9}, "u": [{"y": "z"}],
    }  # fmt: skip


@needs_simulator
def test_numpys_numbers_are_simulated() -> None:
    cluster = {"hosts": [{"name": "n", "count": np.int64(2), "speed": np.float64(1)}]}
    same = gs.simulate(CLUSTER, WORKLOAD, "all_reduce", steps=5)
    found = gs.simulate(
        cluster,
        WORKLOAD | {"batch_size": np.int32(8)},
        "all_reduce",
        steps=np.int64(5),  # type: ignore[arg-type]
        seed=np.int64(1),  # type: ignore[arg-type]
        every_step=np.bool_(False),  # type: ignore[arg-type]
        timeline=np.bool_(False),  # type: ignore[arg-type]
        detection=np.float32(30),  # type: ignore[arg-type]
    )
    assert found.to_dict() | {"wall_seconds": 0} == same.to_dict() | {"wall_seconds": 0}
    json.dumps(found.to_dict())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"optimizer": None}, "optimizer=None: must be a text"),
        ({"checkpoint_every": 1.5}, "checkpoint_every=1.5: must be a whole number"),
        ({"checkpoint_every": None}, "checkpoint_every=None: must be a whole number"),
        ({"evaluate_every": 1.5}, "evaluate_every=1.5: must be a whole number"),
        ({"evaluate_every": None}, "evaluate_every=None: must be a whole number"),
        ({"every_step": 1}, "every_step=1: must be True or False"),
        ({"every_step": "no"}, "every_step='no': must be True or False"),
        ({"every_step": None}, "every_step=None: must be True or False"),
        ({"timeline": None}, "timeline=None: must be True or False"),
        ({"detection": None}, "detection=None: must be a number"),
        ({"detection": "3"}, "detection='3': must be a number"),
        ({"detection": True}, "detection=True: must be a number"),
        ({"detection": 10**400}, "detection=inf: must be seconds"),
        ({"detection": 4e7}, r"detection=4e\+07: must be seconds, not negative and below a year"),
        ({"steady_tolerance": None}, "steady_tolerance=None: must be a number"),
        ({"steps": None}, "steps=None: must be a whole number"),
        ({"seed": 1.0}, "seed=1.0: must be a whole number"),
        ({"progress": 3}, "progress=3: must be a function, or None"),
        ({"pool": 3}, r"pool=3: must be a gearshift\.sim\.processes\.Pool, or None"),
        ({"train": 3}, "train=3: must be a text or a path, or None"),
    ],
)
def test_arguments_of_another_type_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(gs.InvalidArgument, match=rf"^{message}"):
        gs.simulate(CLUSTER, WORKLOAD, "all_reduce", **arguments)


@needs_simulator
def test_intervals_beyond_the_last_step_are_taken() -> None:
    never = gs.simulate(CLUSTER, WORKLOAD, "all_reduce", steps=5)
    rarely = gs.simulate(CLUSTER, WORKLOAD, "all_reduce", steps=5, checkpoint_every=2**40)
    assert rarely.to_dict() | {"wall_seconds": 0} == never.to_dict() | {"wall_seconds": 0}


def endless() -> dict[str, Any]:
    found = dict(CLUSTER)
    found["more"] = {"again": [found]}
    return found


def deep() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(10_000):
        found = {"in": found}
    return found


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({1: 2, **CLUSTER}, "^the key 1 is an int, no text"),
        ({"hosts": [{None: 2}]}, r"^hosts\[0\]: the key None is None, no text"),
        (endless(), r"^more.again\[0\]: contains itself"),
        (deep(), "nested too deeply"),
        ({"name": "\ud800"}, "^name: .* cannot be written as UTF-8"),
        ({"\ud800": 1}, "cannot be written as UTF-8"),
        ({"name": None}, "^name: None cannot stand in a TOML file"),
        ({"name": 1j}, "^name: a complex cannot"),
    ],
)
def test_dicts_that_no_file_can_hold_are_refused(document: Any, message: str) -> None:
    with pytest.raises(gs.InvalidArgument, match=message):
        toml_text.dumps(document)
    with pytest.raises(gs.InvalidArgument, match=message):
        read_cluster(document)


def test_a_cluster_that_memory_cannot_hold_is_refused_before_it_is_simulated() -> None:
    large = {"hosts": [{"name": "n", "count": 2, "workers": 400_000}]}
    told = "hosts: to simulate 800000 processes takes at least 40960 GB of memory, and this machine"
    with pytest.raises(gs.InvalidArgument, match=told):
        gs.simulate(large, WORKLOAD, "all_reduce")


def test_texts_and_paths_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(gs.InvalidArgument, match=r"^cluster: .* cannot be written as UTF-8"):
        read_cluster('name = "\ud800"\n')
    for path in ("\ud800", "a\0b"):
        with pytest.raises(gs.InvalidArgument, match="is no path"):
            read_cluster(path)
    (tmp_path / "c.json").write_text('{"name": "\\ud800"}', encoding="utf-8")
    with pytest.raises(gs.InvalidArgument, match=r"c\.json: name: .* cannot be written"):
        read_cluster(tmp_path / "c.json")
    (tmp_path / "d.json").write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(gs.InvalidArgument, match=r"d\.json: no JSON"):
        read_cluster(tmp_path / "d.json")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": None}, "^name: must be text, None is none"),
        ({"batch_size": 1.5}, "^batch_size: must be a whole number, 1.5 is none"),
        ({"batch_size": None}, "^batch_size: must be a whole number, None is none"),
        ({"forward_seconds": None}, "^forward: must be a number, None is none"),
        ({"forward_seconds": "3"}, "^forward: must be a number, '3' is none"),
        ({"variability": Variability("normal", None)}, "^variability.spread: must be a number"),
        ({"variability": Variability("empirical", factors=3)}, "^variability.factors: must be a"),
        ({"parameters": (WorkloadParameter(3, (1,)),)}, r"^parameters\[0\].name: must be text"),
        ({"parameters": (WorkloadParameter("a", 3),)}, r"^parameters\[0\].shape: must be a tuple"),
        (
            {"parameters": (WorkloadParameter("a", (1.5,)),)},
            r"^parameters\[0\].shape\[0\]: must be a whole",
        ),
    ],
)
def test_a_workload_of_other_types_is_not_saved(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    for name in ("w.toml", "w.json"):
        with pytest.raises(gs.InvalidArgument, match=message):
            Workload(**{**vars(PLAIN), **fields}).save(tmp_path / name)
        assert not (tmp_path / name).exists()


def test_a_path_may_have_an_equals_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "lr=0.1"
    folder.mkdir()
    (folder / "cluster.toml").write_text('name = "read"', encoding="utf-8")
    (folder / "other").write_text('name = "read"', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert read_cluster("lr=0.1/cluster.toml").title == "read"
    assert read_cluster("lr=0.1/other").title == "read"
    assert read_cluster('name = "text"').title == "text"
    with pytest.raises(gs.Error, match=r"lr=0.1/cluster2.toml: No such file"):
        read_cluster("lr=0.1/cluster2.toml")


@needs_simulator
def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path: Path) -> None:
    text = toml_text.dumps(CLUSTER)
    (tmp_path / "c.toml").write_text(text, encoding="utf-8-sig")
    (tmp_path / "w.json").write_text(json.dumps(WORKLOAD), encoding="utf-8-sig")
    for cluster in (tmp_path / "c.toml", "\ufeff" + text):
        assert gs.simulate(cluster, tmp_path / "w.json", "all_reduce", steps=3).steps_done == 3


@needs_simulator
def test_what_only_the_simulator_can_read_is_refused_before_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reader knows a newer TOML than Python's."""
    monkeypatch.setattr("gearshift.sim.simulation.Pool", None)
    (tmp_path / "c.toml").write_text("name = \n", encoding="utf-8")
    with pytest.raises(gs.InvalidArgument, match=r"c\.toml:1:\d+: Error while parsing"):
        gs.simulate(tmp_path / "c.toml", WORKLOAD, "all_reduce")
