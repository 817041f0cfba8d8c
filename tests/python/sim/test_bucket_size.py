"""Buckets whose size measured links decide: never much worse than the best size for a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import gearshift as gs

pytestmark = pytest.mark.skipif(
    not any(Path(gs.__file__).parent.glob("_sim*.so")), reason="built without SimGrid"
)
EXAMPLES = Path(__file__).parents[3] / "examples"
SIZES = (0.0625, 0.25, 1, 4, 16)


def step_seconds(cluster: Any, workload: Any, strategy: str, bucket_mb: object) -> float:
    text = f"{strategy}(bucket_mb={bucket_mb})"
    return gs.simulate(cluster, workload, text, steps=6).step_seconds.mean


@pytest.mark.parametrize("strategy", ["all_reduce", "ps:bsp"])
@pytest.mark.parametrize("cluster", ["four-hosts-1g", "cloud-16-10g", "two-sites"])
@pytest.mark.parametrize("workload", ["fashion-mnist-cnn", "resnet50"])
def test_auto_is_about_as_good_as_the_best_size(cluster: str, workload: str, strategy: str) -> None:
    files = (EXAMPLES / f"clusters/{cluster}.toml", EXAMPLES / f"workloads/{workload}.toml")
    sizes = {size: step_seconds(*files, strategy, size) for size in SIZES}
    assert step_seconds(*files, strategy, "auto") <= 1.2 * min(sizes.values()), sizes


@pytest.mark.parametrize(
    ("auto", "together", "rest"),
    [
        ("all_reduce", "all_reduce(bucket_mb=4)", 0),
        ("ps:bsp", "ps:bsp(bucket_mb=4)", 0.0144),
        ("ps:ssp(1)", "ps:ssp(1, bucket_mb=4)", 0.0144),
        ("switch(at=1)", "switch(start=all_reduce(bucket_mb=4), at=1)", 0.0144),
    ],
)
def test_a_small_model_is_on_its_way_during_backward(auto: str, together: str, rest: float) -> None:
    # 2.4 MB, of which 160 KB become ready every 4 ms, over 1 Gbit/s. In one bucket 29 ms are waited
    # for; in small ones for the last of them, and under servers for the parameters.
    cluster = {"hosts": [{"name": "n", "count": 4, "bandwidth": "1 Gbit/s"}]}
    parameters = ", ".join(f'{{ name = "p{i}", shape = [40000] }}' for i in range(15))
    workload = f"""
        batch_size = 8
        forward = "30 ms"
        backward = "60 ms"
        parameters = [{parameters}]
    """
    small = gs.simulate(cluster, workload, auto, steps=6)
    one = gs.simulate(cluster, workload, together, steps=6)
    assert one.step_seconds.mean > 0.09 + 0.028
    assert small.step_seconds.mean < 0.09 + rest + 0.004
    assert small.bytes_sent == pytest.approx(one.bytes_sent, rel=0.02)


def test_the_link_between_sites_is_kept_busy() -> None:
    # Each of two sites sends a gradient once over the 11.96 MB/s between them. Before and behind
    # that, buckets go round their sites.
    cluster, workload = EXAMPLES / "clusters/two-sites.toml", EXAMPLES / "workloads/resnet50.toml"
    step = gs.simulate(cluster, workload, "all_reduce", steps=6).step_seconds.mean
    bytes_between = 25_557_032 * 4
    assert bytes_between / 11.96e6 < step < 1.03 * bytes_between / 11.96e6
