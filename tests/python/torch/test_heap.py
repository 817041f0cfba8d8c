"""Gradients find pages that the process has already."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from typing import Any

import pytest
from gearshift_testing import run_script

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc is asked to keep memory"
)

_STEPS = 30
_TRAINING = f"""
import json, resource
import torch
import gearshift as gs
import gearshift.torch as gst
from gearshift.torch._heap import keep_freed_memory

gs.init()
model = torch.nn.Sequential(*(torch.nn.Linear(1500, 1500) for _ in range(4)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
model, optimizer = gst.distribute(model, optimizer, strategy="all_reduce")
x = torch.ones(2, 1500)

def step():
    optimizer.zero_grad()
    model(x).sum().backward()
    optimizer.step()

for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({_STEPS}):
    step()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
pages = sum(4 * p.numel() for p in model.parameters()) / resource.getpagesize()
print(json.dumps({{"share": faults / {_STEPS} / pages, "kept": keep_freed_memory(0)}}))
"""


def _train(extra: Mapping[str, str]) -> Any:
    (done,) = run_script(_TRAINING, 1, extra=extra)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_gradients_cause_no_page_faults() -> None:
    trained = _train({})
    assert trained["kept"] == 64 << 20
    assert trained["share"] < 0.1


@pytest.mark.parametrize(
    "said",
    [
        {"MALLOC_TRIM_THRESHOLD_": "131072"},
        {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072"},
    ],
    ids=lambda said: next(iter(said)),
)
def test_what_the_user_says_to_the_c_library_stands(said: dict[str, str]) -> None:
    trained = _train(said)
    assert trained["kept"] == 0
    assert trained["share"] > 0.5
