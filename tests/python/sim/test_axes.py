"""Axes of a sweep, and rates as text."""

from __future__ import annotations

import pytest

import gearshift as gs
from gearshift.sim.axes import parse_sweep
from gearshift.sim.rates import format_rate, parse_rate


def test_axes_are_parted_by_blanks_and_values_by_commas() -> None:
    axes = parse_sweep(["workers=16,4 bandwidth=1G,100M", "strategy=ps:buffered(4, bound=8),ps"])
    assert [(axis.name, axis.values) for axis in axes] == [
        ("workers", (4, 16)),
        ("bandwidth", (12.5e6, 125e6)),
        ("strategy", ("ps:buffered(4, bound=8)", "ps:bsp")),
    ]
    assert [axis.numeric for axis in axes] == [True, True, False]
    assert [axis.show(axis.values[0]) for axis in axes] == [
        "4",
        "100 Mbit/s",
        "ps:buffered(4, bound=8)",
    ]


def test_a_strategy_may_have_strategies_in_its_parentheses() -> None:
    (axis,) = parse_sweep(["strategy=switch(then=ps:ssp(3, shards=2), at=5),all_reduce"])
    assert axis.values == ("switch(then=ps:ssp(3, shards=2), at=5)", "all_reduce")


def test_whole_numbers_are_shown_to_the_last_digit() -> None:
    (axis,) = parse_sweep(["workers=2,16384"])
    assert [axis.show(value) for value in (*axis.values, 2.5, 12345.6)] == [
        *("2", "16384", "2.5", "12346")
    ]


def test_every_key_of_hosts_is_an_axis() -> None:
    axes = parse_sweep(["hosts.burst=0,1000000 hosts.queue=1ms,20ms"])
    assert [axis.values for axis in axes] == [
        (0, 1_000_000),
        (pytest.approx(1e-3), pytest.approx(20e-3)),
    ]


def test_keys_of_hosts_are_axes_with_their_units() -> None:
    axes = parse_sweep(["hosts.per_message=5us,1ms hosts.speed=0.5,2 latency=25us hosts.zone=a,b"])
    assert [axis.values for axis in axes] == [
        (pytest.approx(5e-6), pytest.approx(1e-3)),
        (0.5, 2.0),
        (pytest.approx(25e-6),),
        ("a", "b"),
    ]
    assert axes[0].show(1e-3) == "1 ms"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "at least one axis"),
        ("workers", "is no axis; write NAME=VALUE"),
        ("workers=", "no values"),
        ("worker=4", 'there is no axis "worker"; there are strategy, workers, bandwidth'),
        ("hosts.colour=4", "hosts.per_message"),
        ("worker=4", 'hosts.zone; did you mean "workers"?'),
        ("hosts.bandwith=1G", 'did you mean "hosts.bandwidth"?'),
        ("workers=2, 4", '"4" is no axis; write NAME=VALUE,VALUE,…, without blanks behind commas'),
        ("workers=4 workers=8", "twice"),
        ("workers=4,4", "twice"),
        ("workers=0", "too small"),
        ("workers=2.5", '"2.5" is no whole number'),
        ("batch_size=8,9223372036854775808", "9223372036854775808 is too great"),
        (f"hosts.burst=1{400 * '0'}", "is too great"),
        ("bandwidth=10Gbps", "is no rate"),
        ("bandwidth=-1M", "too small"),
        ("latency=5", "is no time"),
        ("strategy=ps:never", "consistency"),
    ],
)
def test_what_is_wrong_with_an_axis_is_said(text: str, told: str) -> None:
    with pytest.raises(gs.InvalidArgument, match=r"^(sweep|consistency)") as caught:
        parse_sweep([text])
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 Gbit/s", 125e6),
        ("100M", 12.5e6),
        ("10gbit", 1.25e9),
        ("119.6 MB/s", 119.6e6),
        ("8 Kib/s", 1024),
        ("1.5e3 B/s", 1500),
        ("100 bit/s", 12.5),
    ],
)
def test_rates_are_bits_unless_they_say_bytes(text: str, value: float) -> None:
    assert parse_rate(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "100", "1 Gbps", "fast", "1 GB", "M"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no rate"):
        parse_rate(text)


def test_a_rate_for_people() -> None:
    assert [format_rate(r) for r in (1.25e9, 12.5e6, 119.6e6, 10)] == [
        "10 Gbit/s",
        "100 Mbit/s",
        "956.8 Mbit/s",
        "80 bit/s",
    ]
