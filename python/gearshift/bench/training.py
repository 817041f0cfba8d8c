"""Cases of whole training steps: ours against DistributedDataParallel over Gloo."""

from __future__ import annotations

import math
from collections.abc import Mapping

from .case import OURS, Network, Point, Setting, Side, Target

DDP = "DDP"
DDP_FP16 = "DDP, fp16"
"""The same with PyTorch's hook that sends gradients as float16; that for bfloat16 refuses Gloo."""
WHOLE = "gearshift, float32"
"""Ours without compression."""
DDP_OVER_GLOO = "DDP over Gloo"
AVERAGER = "PeriodicModelAverager"
"""What PyTorch has for local SGD, over Gloo on a model that is not wrapped."""
EACH_STEP = "gearshift, all_reduce"
"""Ours with a round in each step."""
ALONE = "no communication"
"""The same ranks computing at the same time, each for itself: what no communication can beat."""

MODELS = ("mlp", "cnn", "resnet18", "transformer")
_PROGRAM = "training/step.py"
_EVERY = 8
"""Steps from one round of local SGD to the next."""
_FEW = 4
"""Steps of a model that takes seconds for one between sites."""
_STEPS = {"resnet18": 4, "transformer": 8}
_CHECKED = {"resnet18": 1}
"""Steps that are compared with one process. In a deep model rounding errors grow with each."""


def settings() -> list[Setting]:
    """Each model with two and four ranks, on one host and on hosts of one rank; two at sites.

    And two among four hosts, with gradients as bfloat16 and under local SGD; and some by
    DistributedDataParallel over our backend.
    """
    return [
        *(_on_one_host(model, ranks) for ranks in (2, 4) for model in MODELS),
        *(_on_hosts(model, ranks) for ranks in (2, 4) for model in MODELS),
        *(_at_sites(model) for model in ("mlp", "cnn")),
        *(_rounded(model) for model in ("mlp", "resnet18")),
        *(_local(model) for model in ("mlp", "resnet18")),
        *(_backends("one_host/2", "one host, 2 ranks", model, 2) for model in ("mlp", "resnet18")),
        _backends("hosts/4", "4 hosts at 1gbit", "mlp", 4, Network(4, 1000.0)),
    ]


def _on_one_host(model: str, ranks: int) -> Setting:
    return _setting(f"one_host/{ranks}", f"one host, {ranks} ranks", model, ranks)


def _on_hosts(model: str, ranks: int) -> Setting:
    where = f"{ranks} hosts at 1gbit"
    return _setting(f"hosts/{ranks}", where, model, ranks, Network(ranks, 1000.0))


def _at_sites(model: str) -> Setting:
    where = "2 sites of 2 hosts, 1gbit within, 100mbit between"
    return _setting("sites/2x2", where, model, 4, Network(4, 1000.0, sites=2, uplink_mbit=100.0))


def _rounded(model: str) -> Setting:
    """Gradients travel as bfloat16."""
    contestants = {
        OURS: ("side=gearshift", "strategy=all_reduce(compression=bf16)", "rounded=1"),
        DDP_FP16: ("side=ddp", "compression=fp16", "rounded=1"),
        WHOLE: ("side=gearshift",),
    }
    targets = (Target("ratio", 1, DDP_FP16), Target("ratio", 1, WHOLE))
    return _slow_links("bf16", "gradients as bfloat16", model, contestants, _point(model, targets))


def _local(model: str) -> Setting:
    """Each rank trains alone for some steps. A time is the mean of as many, one with a round."""
    every = f"every={_EVERY}"
    contestants = {
        OURS: ("side=gearshift", f"strategy=local_sgd({_EVERY})", every),
        AVERAGER: ("side=averager", every),
        EACH_STEP: ("side=gearshift", every),
    }
    targets = (Target("ratio", 1, AVERAGER), Target("ratio", 1, EACH_STEP))
    what = f"local SGD with a round in {_EVERY} steps"
    return _slow_links("local", what, model, contestants, _point(model, targets, every=_EVERY))


def _backends(
    place: str, where: str, model: str, ranks: int, network: Network | None = None
) -> Setting:
    """DistributedDataParallel over gearshift's backend and over Gloo."""
    contestants = ((OURS, "gearshift"), (DDP_OVER_GLOO, "gloo"))
    return Setting(
        name=f"training/ddp/{place}/{model}",
        title=f"training step by DistributedDataParallel, {model}, {where}",
        ranks=ranks,
        sides=tuple(
            Side(
                name,
                _PROGRAM,
                ("side=ddp", f"backend={backend}", f"model={model}"),
                modules=("torch",),
            )
            for name, backend in contestants
        ),
        points=(_point(model, (Target("ratio", 1, DDP_OVER_GLOO),)),),
        network=network,
    )


def _slow_links(
    kind: str, what: str, model: str, contestants: Mapping[str, tuple[str, ...]], point: Point
) -> Setting:
    """Sides that differ in what four hosts at 1 Gbit/s send."""
    return Setting(
        name=f"training/{kind}/4/{model}",
        title=f"training step, {model}, 4 hosts at 1gbit, {what}",
        ranks=4,
        sides=tuple(
            Side(name, _PROGRAM, (*arguments, f"model={model}"), modules=("torch",))
            for name, arguments in contestants.items()
        ),
        points=(point,),
        network=Network(4, 1000.0),
    )


def _setting(
    place: str, where: str, model: str, ranks: int, network: Network | None = None
) -> Setting:
    at_sites = network is not None and network.sites > 1
    targets = (Target("ratio", 1, DDP), Target("memory", 1, DDP))
    quick = model in ("mlp", "cnn") and ranks == 2 and network is None
    if at_sites:
        few = _FEW if model == "mlp" else None
        point = _point(model, (Target("ratio", 1.3, DDP),), quick, steps=few)
    else:
        point = _point(model, targets, quick)
    return Setting(
        name=f"training/{place}/{model}",
        title=f"training step, {model}, {where}",
        ranks=ranks,
        sides=tuple(
            Side(name, _PROGRAM, (f"side={side}", f"model={model}"), modules=("torch",))
            for name, side in ((OURS, "gearshift"), (DDP, "ddp"), (ALONE, "local"))
        ),
        points=(point,),
        network=network,
    )


def _point(
    model: str,
    targets: tuple[Target, ...],
    quick: bool = False,
    every: int = 1,
    steps: int | None = None,
) -> Point:
    """One turn, of whole blocks of `every` steps."""
    steps = math.ceil((steps or _STEPS.get(model, 10)) / every) * every
    return Point(
        "step",
        {"steps": steps, "warmup": 2, "check": _CHECKED.get(model, 3)},
        targets=targets,
        quick=quick,
        calibrated=False,
        rounds=7,
    )
