"""Strategies as values and as text."""

from __future__ import annotations

from typing import get_args

import pytest

import gearshift as gs
from gearshift._core import parse_strategy
from gearshift.strategy import Algorithm, parse, to_core, to_text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("all_reduce", gs.AllReduce()),
        ("All-Reduce", gs.AllReduce()),
        ("parameter_server", gs.ParameterServer()),
        ("ps", gs.ParameterServer(gs.BSP())),
        ("ps:bsp", gs.ParameterServer(gs.BSP())),
        ("ps:asp", gs.ParameterServer(gs.ASP())),
        ("ps:ssp(3)", gs.ParameterServer(gs.SSP(3))),
        ("parameter_server:buffered(4)", gs.ParameterServer(gs.Buffered(4))),
        ("ps:buffered(4, bound=8)", gs.ParameterServer(gs.Buffered(4, bound=8))),
        ("switch", gs.StrategySwitch()),
        ("all_reduce:tree", gs.AllReduce("tree")),
        ("all-reduce:ring(bucket_mb=8)", gs.AllReduce("ring", bucket_mb=8)),
        ("ps:bsp(bucket_mb = auto)", gs.ParameterServer(bucket_mb="auto")),
        ("all_reduce(bucket_mb=4)", gs.AllReduce(bucket_mb=4)),
        ("all_reduce:ring(compression=bf16)", gs.AllReduce("ring", compression="bf16")),
        ("all_reduce(compression=none)", gs.AllReduce()),
        ("ps:ssp(3, compression=bf16)", gs.ParameterServer(gs.SSP(3), compression="bf16")),
        (
            "switch(start=all_reduce(compression=bf16), then=ps:asp(compression=bf16))",
            gs.StrategySwitch(
                gs.AllReduce(compression="bf16"),
                gs.ParameterServer(gs.ASP(), compression="bf16"),
            ),
        ),
        ("local_sgd", gs.LocalSGD()),
        ("Local-SGD(4)", gs.LocalSGD(4)),
        ("local_sgd( every = 4 , bucket_mb=2)", gs.LocalSGD(4, bucket_mb=2)),
        (
            "local_sgd(100, outer_lr=0.7, outer_momentum=0.9, compression=bf16)",
            gs.LocalSGD(100, outer_lr=0.7, outer_momentum=0.9, compression="bf16"),
        ),
        (
            "switch(start=all_reduce:tree, then=local_sgd(8, compression=bf16), at=0.1)",
            gs.StrategySwitch(
                gs.AllReduce("tree"), gs.LocalSGD(8, compression="bf16"), gs.At(fraction=0.1)
            ),
        ),
        ("ps(shards=2)", gs.ParameterServer(shards=2)),
        ("ps:asp(shards=1, bucket_mb=2)", gs.ParameterServer(gs.ASP(), shards=1, bucket_mb=2)),
        ("ps:ssp(3, shards=2)", gs.ParameterServer(gs.SSP(3), shards=2)),
        ("switch(at=10)", gs.StrategySwitch(policy=gs.At(step=10))),
        ("switch(at=.5)", gs.StrategySwitch(policy=gs.At(fraction=0.5))),
        ("ps:bsp(clip_norm=1e-3)", gs.ParameterServer(clip_norm=0.001)),
        (
            "ps:ssp(3, lr-scaling=keep, divergence-factor=0)",
            gs.ParameterServer(gs.SSP(3), lr_scaling="keep", divergence_factor=0),
        ),
        (
            " Switch( window=3, threshold=0.02, back=200 ) ",
            gs.StrategySwitch(policy=gs.LossPlateau(3, 0.02), back=gs.At(step=200)),
        ),
        (
            "switch(start=ps:buffered(4, bound = 8), then=all_reduce:ring(bucket_mb=2), at=0.25)",
            gs.StrategySwitch(
                gs.ParameterServer(gs.Buffered(4, 8)),
                gs.AllReduce("ring", bucket_mb=2),
                gs.At(fraction=0.25),
            ),
        ),
    ],
)
def test_text_and_value_are_the_same(text: str, value: object) -> None:
    assert parse(text) == value
    assert parse(parse(text)) == value
    assert parse(to_text(parse(text))) == value
    assert str(parse_strategy(text)) == str(to_core(parse(text), None)), "as C++ reads it"
    assert str(parse_strategy(to_text(parse(text)))) == str(parse_strategy(text))
    to_core(parse(text), 100).validate(4, 0)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (gs.AllReduce(), "all_reduce"),
        (gs.AllReduce("ring", bucket_mb=0.5), "all_reduce:ring(bucket_mb=0.5)"),
        (gs.LocalSGD(), "local_sgd(8)"),
        (gs.LocalSGD(4, outer_lr=0.7, bucket_mb=2), "local_sgd(4, outer_lr=0.7, bucket_mb=2)"),
        (gs.ParameterServer("ssp(3)", shards=2), "ps:ssp(3, shards=2)"),
        (gs.ParameterServer(clip_norm=1.0), "ps:bsp(clip_norm=1)"),
        (gs.ParameterServer(shards=1000000), "ps:bsp(shards=1000000)"),
        (gs.ParameterServer(clip_norm=0.1234567), "ps:bsp(clip_norm=0.1234567)"),
        (gs.StrategySwitch(policy=gs.At(step=3)), "switch(at=3)"),
        (gs.StrategySwitch(then="ps:bsp"), "switch(then=ps:bsp)"),
        (gs.StrategySwitch(policy=len, then="ps:bsp"), "switch all_reduce -> ps:bsp"),
        (gs.StrategySwitch(back=gs.LossPlateau()), "switch all_reduce -> ps:asp"),
    ],
)
def test_a_value_has_a_text_for_people(value: object, text: str) -> None:
    assert to_text(value) == text


@pytest.mark.parametrize("algorithm", get_args(Algorithm))
def test_the_core_knows_every_algorithm(algorithm: Algorithm) -> None:
    assert f"(algorithm={algorithm}, " in str(to_core(gs.AllReduce(algorithm), None))


def test_values_show_what_they_are() -> None:
    assert repr(gs.SSP(3)) == "SSP(s=3)"
    assert "ASP()" in repr(gs.StrategySwitch())
    core = str(to_core(gs.ParameterServer(gs.Buffered(4, bound=8), clip_norm=1.5), None))
    assert "buffered(4, bound=8)" in core
    assert "clip_norm=1.5" in core


@pytest.mark.parametrize(
    "make",
    [
        lambda: gs.SSP(-1),
        lambda: gs.SSP(1.5),
        lambda: gs.Buffered(0),
        lambda: gs.Buffered(2, bound=-1),
        lambda: gs.AllReduce("carrier pigeon"),
        lambda: gs.AllReduce(bucket_mb=0),
        lambda: gs.AllReduce(bucket_mb="large"),
        lambda: gs.ParameterServer(bucket_mb=None),
        lambda: gs.ParameterServer("soon"),
        lambda: gs.ParameterServer(3),
        lambda: gs.ParameterServer(shards=0),
        lambda: gs.ParameterServer(servers=-1),
        lambda: gs.ParameterServer(clip_norm=-1.0),
        lambda: gs.ParameterServer(lr_scaling="up"),
        lambda: gs.ParameterServer(divergence_factor=-1),
        lambda: gs.LossPlateau(window=0),
        lambda: gs.LossPlateau(threshold=0),
        lambda: gs.At(),
        lambda: gs.At(step=3, fraction=0.5),
        lambda: gs.At(step=0),
        lambda: gs.At(fraction=1.0),
        lambda: gs.StrategySwitch(start=gs.AllReduce(), then=gs.AllReduce()),
        lambda: gs.StrategySwitch(then=gs.StrategySwitch()),
        lambda: gs.StrategySwitch(policy="soon"),
        lambda: gs.StrategySwitch(policy=None),
    ],
)
def test_nonsense_is_refused_where_it_is_written(make: object) -> None:
    with pytest.raises(gs.InvalidArgument):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ring",
        "ps:",
        "all_reduce:",
        "all_reduce:pigeon",
        "all_reduce(shards=2)",
        "all_reduce(bucket_mb=0)",
        "all_reduce(bucket_mb=-1)",
        "all_reduce(bucket_mb=automatic)",
        "all_reduce(bucket_mb=)",
        "all_reduce(bucket_mb=inf)",
        "all_reduce(bucket_mb=1e300)",
        "all_reduce(bucket_mb=2) ring",
        "ps:bsp(shards=many)",
        "ps:bsp(shards=0)",
        "ps:bsp(shards=1_0)",
        "ps:bsp(shards=9999999999)",
        "ps:bsp(shards=1, shards=1)",
        "ps:bsp(3)",
        "ps:bsp(clip_norm=0)",
        "ps:bsp(lr_scaling=up)",
        "ps:bsp(divergence_factor=-1)",
        "ps:bsp(shards=1,)",
        "ps:bsp(",
        "ps:bsp )",
        "ps:ssp",
        "ps:ssp()",
        "ps:ssp(3 4)",
        "ps:ssp(-1)",
        "ps:ssp(9999999999)",
        "ps:ssp(bound=3)",
        "ps:buffered(0)",
        "ps:buffered(4, 8, 9)",
        "ps:buffered(bound=8, 4)",
        "ps(speed=3)",
        "ps(3)",
        "switch:asp",
        "switch(at=0)",
        "switch(at=1.0)",
        "switch(at=soon)",
        "switch(back=0)",
        "switch(at=10, back=5)",
        "switch(at=10, back=10)",
        "switch(at=0.5, back=0.25)",
        "switch(back=.5, at=.5)",
        "switch(at=3, window=2)",
        "switch(window=0)",
        "switch(threshold=0)",
        "switch(then=all_reduce)",
        "switch(start=ps:asp)",
        "switch(then=switch)",
        "switch(then=ps:ssp(3)",
    ],
)
def test_neither_language_reads_nonsense(text: str) -> None:
    for read in (parse, parse_strategy):
        with pytest.raises(gs.InvalidArgument):
            read(text)


def test_numbers_that_the_core_has_no_room_for_are_refused() -> None:
    for make in (gs.LocalSGD, gs.SSP, gs.Buffered, gs.LossPlateau):
        with pytest.raises(gs.InvalidArgument, match="a whole number below 2147483648"):
            make(2**31)
    gs.strategy.to_core(gs.StrategySwitch(then=gs.LocalSGD(2**31 - 1), policy=gs.At(2**40)), None)


def test_a_way_back_comes_after_the_switch() -> None:
    with pytest.raises(gs.InvalidArgument, match=r"back at step 5 would never happen.* step 10"):
        gs.StrategySwitch(policy=gs.At(step=10), back=gs.At(step=5))
    # A step and a fraction do not compare before the number of steps is known.
    for text in ("switch(at=10, back=11)", "switch(at=0.5, back=10)", "switch(at=10, back=0.1)"):
        for read in (parse, parse_strategy):
            read(text)


def test_text_stands_for_phases_and_consistencies() -> None:
    switch = gs.StrategySwitch(start="ps:bsp", then="all_reduce", policy=gs.At(fraction=0.5))
    assert switch.start == gs.ParameterServer()
    assert gs.ParameterServer("ssp(2)").consistency == gs.SSP(2)
    with pytest.raises(gs.InvalidArgument, match="total_steps"):
        to_core(switch, None).validate(2, 0)
    to_core(switch, 10).validate(2, 0)


def test_an_unknown_option_of_a_consistency_is_named() -> None:
    for text in ("ps:asp(shard=2)", "ps:ssp(3, shard=2)", "ps:buffered(4, bound=8, shard=2)"):
        with pytest.raises(gs.InvalidArgument, match="unknown option 'shard=2'; there are: shards"):
            parse(text)
    assert parse("ps:buffered(4, bound=8)") == gs.ParameterServer(gs.Buffered(4, bound=8))


def test_errors_are_what_they_were_and_more() -> None:
    assert issubclass(gs.PeerLost, gs.Error)
    assert issubclass(gs.Error, RuntimeError)
    assert issubclass(gs.InvalidArgument, ValueError)
    assert issubclass(gs.TimeoutError, TimeoutError)
    error = gs.errors.from_core("aborted", "rank 2 gave up", 2)
    assert isinstance(error, gs.PeerLost)
    assert (error.rank, error.code, str(error)) == (2, "aborted", "rank 2 gave up")
    assert gs.errors.from_core("io", "disk full", -1).rank is None


def test_every_error_of_the_core_has_a_class() -> None:
    from gearshift import _core
    from gearshift.errors import _CLASSES

    assert set(_core.error_codes) == set(_CLASSES)
