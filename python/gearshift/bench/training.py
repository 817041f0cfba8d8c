"""Cases of whole training steps: ours against DistributedDataParallel over Gloo."""

from __future__ import annotations

from .case import OURS, Network, Point, Setting, Side, Target

DDP = "DDP"
ALONE = "no communication"
"""The same ranks computing at the same time, each for itself: what no communication can beat."""

MODELS = ("mlp", "cnn", "resnet18", "transformer")
_PROGRAM = "training/step.py"
_STEPS = {"resnet18": 4, "transformer": 8}
_CHECKED = {"resnet18": 1}
"""Steps that are compared with one process. In a deep model rounding errors grow with each."""


def settings() -> list[Setting]:
    """Each model with two and four ranks, on one host and on hosts of one rank."""
    return [
        _setting(model, ranks, network)
        for network in (False, True)
        for ranks in (2, 4)
        for model in MODELS
    ]


def _setting(model: str, ranks: int, network: bool) -> Setting:
    place = "hosts" if network else "one_host"
    where = f"{ranks} hosts at 1gbit" if network else f"one host, {ranks} ranks"
    point = Point(
        "step",
        {"steps": _STEPS.get(model, 10), "warmup": 2, "check": _CHECKED.get(model, 3)},
        targets=(Target("ratio", 1, DDP), Target("memory", 1, DDP)),
        quick=model in ("mlp", "cnn") and ranks == 2 and not network,
        calibrated=False,
        rounds=7,
    )
    return Setting(
        name=f"training/{place}/{ranks}/{model}",
        title=f"training step, {model}, {where}",
        ranks=ranks,
        sides=tuple(
            Side(name, _PROGRAM, (f"side={side}", f"model={model}"), modules=("torch",))
            for name, side in ((OURS, "gearshift"), (DDP, "ddp"), (ALONE, "local"))
        ),
        points=(point,),
        network=Network(ranks, 1000.0) if network else None,
    )
