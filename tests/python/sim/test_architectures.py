"""The workloads of well-known networks against published numbers, and the committed files."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from gearshift.sim import architectures
from gearshift.sim.architectures import NETWORKS, workload_of
from gearshift.sim.workload import Workload

FOLDER = Path(__file__).parents[3] / "examples" / "workloads"
PARAMETERS = {
    "resnet50": 25_557_032,
    "vgg16": 138_357_544,
    "bert-base": 109_482_240,
    "gpt2-small": 124_439_808,
}
TENSORS = {"resnet50": 161, "vgg16": 32, "bert-base": 199, "gpt2-small": 148}
# Of a forward, per image: He et al. 2016 and torchvision's table; of 128 tokens: Sun et al. 2020
# (MobileBERT), 22.5 GFLOPs; of 1024 tokens: Chowdhery et al. 2022 (PaLM), appendix B, with
# N = 123,653,376 without positions, 12 layers of width 768: (6 N + 12 · 12 · 768 · 1024) / 3 / 2.
_GPT2 = (6 * (124_439_808 - 1024 * 768) + 12 * 12 * 768 * 1024) * 1024 / 6
MACS = {"resnet50": 4.1e9, "vgg16": 15.5e9, "bert-base": 22.5e9 / 2, "gpt2-small": _GPT2}


@pytest.mark.parametrize("stem", NETWORKS)
def test_totals(stem: str) -> None:
    network = NETWORKS[stem]()
    assert network.elements == PARAMETERS[stem]
    assert len([p for layer in network.layers for p in layer.parameters]) == TENSORS[stem]
    assert network.macs == pytest.approx(MACS[stem], rel=0.02)


@pytest.mark.parametrize("stem", NETWORKS)
def test_times(stem: str) -> None:
    network = NETWORKS[stem]()
    workload = workload_of(network, rate=10e12)
    workload.validate()
    assert workload.forward_seconds == pytest.approx(2 * network.macs * network.batch_size / 10e12)
    assert workload.backward_seconds == 2 * workload.forward_seconds
    ready = [p.ready_seconds for p in workload.parameters]
    assert ready == sorted(ready, reverse=True)
    assert ready[0] == workload.backward_seconds
    twice = workload_of(network, rate=20e12)
    assert twice.forward_seconds == pytest.approx(workload.forward_seconds / 2)


@pytest.mark.parametrize("stem", NETWORKS)
def test_committed_files_are_what_the_generator_makes(stem: str) -> None:
    made, read = workload_of(NETWORKS[stem]()), Workload.load(FOLDER / f"{stem}.toml")
    assert read.parameters != ()
    assert [(p.name, p.shape, p.dtype) for p in read.parameters] == [
        (p.name, p.shape, p.dtype) for p in made.parameters
    ]
    assert [p.ready_seconds for p in read.parameters] == pytest.approx(
        [p.ready_seconds for p in made.parameters], rel=1e-5
    )
    assert read.forward_seconds == pytest.approx(made.forward_seconds, rel=1e-5)


def test_the_tied_embedding_is_ready_last() -> None:
    parameters = workload_of(NETWORKS["gpt2-small"]()).parameters
    assert parameters[0].name == "transformer.wte.weight"
    assert parameters[0].ready_seconds == max(p.ready_seconds for p in parameters)
    assert parameters[-1].ready_seconds > 0  # behind the output layer, which has that table


def test_vgg16_is_the_network_that_torch_builds() -> None:
    features: list[nn.Module] = []
    inputs = 3
    plan = (*(64, 64, 0, 128, 128, 0), *(256,) * 3, 0, *(512,) * 3, 0, *(512,) * 3, 0)
    for width in plan:
        if width:
            features += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
            inputs = width
        else:
            features.append(nn.MaxPool2d(2))
    with torch.device("meta"):
        head = nn.Sequential(
            *(nn.Linear(25088, 4096), nn.ReLU(), nn.Dropout()),
            *(nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 1000)),
        )
    model = nn.ModuleDict({"features": nn.Sequential(*features), "classifier": head})
    expected = [(name, tuple(p.shape)) for name, p in model.named_parameters()]
    made = workload_of(NETWORKS["vgg16"]()).parameters
    assert [(p.name, p.shape) for p in made] == expected


def test_the_demo_has_been_recorded() -> None:
    workload = Workload.load(FOLDER / "fashion-mnist-cnn.toml")
    assert workload.elements == 109_024
    assert workload.variability.kind == "empirical"
    ready = [p.ready_seconds for p in workload.parameters if p.name.endswith(".weight")]
    assert ready == sorted(ready, reverse=True)


@pytest.mark.parametrize("option", ["--rate", "--bandwidth"])
@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "1e300", "1e-9"])
def test_a_rate_that_is_none_is_refused(
    option: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    arguments = ["architectures", f"{option}={value}", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as caught:
        architectures.main()
    assert caught.value.code == 2
    assert f"error: {option} {float(value):g}: must be from 1e+06 to 1e+21" in (
        capsys.readouterr().err
    )
    assert not list(tmp_path.iterdir())
