"""A script that names no strategy gets the one that its job was started with."""

from __future__ import annotations

from gearshift_testing import run_script

SCRIPT = """
import torch
import gearshift as gs, gearshift.torch as gst

gs.init()
torch.manual_seed(0)
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
model, optimizer = gst.distribute(model, optimizer{named})
for step in range(4):
    optimizer.zero_grad()
    loss = model(torch.ones(2, 3)).square().mean()
    loss.backward()
    optimizer.step(loss=loss)
stats = gst.stats(model)
print(stats["strategy"], [switch["step"] for switch in stats["switches"]])
gst.release(model)
model, optimizer = gst.distribute(model, optimizer{named})
"""
MENTION = "the program names its strategy itself and keeps it"


def outcome(named: str = "", **variables: str) -> tuple[str, list[str]]:
    """What both workers say of the strategy, and what they log."""
    extra = {f"GEARSHIFT_{name}": value for name, value in variables.items()}
    ended = run_script(SCRIPT.format(named=named), 2, extra=extra, forked=True)
    assert [process.returncode for process in ended] == [0, 0], ended
    assert ended[0].stdout == ended[1].stdout
    return ended[0].stdout.strip(), [process.stderr for process in ended]


def test_the_environment_decides_where_the_script_does_not() -> None:
    assert outcome() == ("all_reduce []", ["", ""])
    assert outcome(STRATEGY="ps:ssp(2)") == ("parameter_server(ssp(2)) []", ["", ""])
    assert outcome(", strategy=None", STRATEGY="ps:bsp")[0] == "parameter_server(bsp) []"


def test_the_number_of_steps_comes_from_outside_too() -> None:
    told = {"STRATEGY": "switch(at=0.5, then=ps:bsp)", "TOTAL_STEPS": "4"}
    assert outcome(**told) == ("parameter_server(bsp) [2]", ["", ""])
    at = ", gs.StrategySwitch(then='ps:bsp', policy=gs.At(fraction=0.75))"
    assert outcome(at, TOTAL_STEPS="4")[0] == "parameter_server(bsp) [3]"
    assert outcome(at + ", total_steps=4", TOTAL_STEPS="400")[0] == "parameter_server(bsp) [3]"


def test_a_strategy_that_the_script_names_stands_and_is_mentioned_once() -> None:
    shown, logged = outcome(", 'ps:bsp'", STRATEGY="ps:asp")
    assert shown == "parameter_server(bsp) []"
    assert logged[0].count(MENTION) == 1
    assert "consistency=bsp" in logged[0]
    assert "consistency=asp" in logged[0]
    assert logged[1] == ""


def test_nothing_is_mentioned_where_both_ask_for_the_same() -> None:
    named = ", gs.ParameterServer(consistency=gs.SSP(2)), total_steps=4"
    shown, logged = outcome(named, STRATEGY="PS:ssp( 2 )")
    assert shown == "parameter_server(ssp(2)) []"
    assert logged == ["", ""]


def test_nonsense_in_the_environment_is_refused() -> None:
    for extra, words in (
        ({"GEARSHIFT_STRATEGY": "gossip"}, "GEARSHIFT_STRATEGY: strategy 'gossip' is none of"),
        ({"GEARSHIFT_TOTAL_STEPS": "many"}, "GEARSHIFT_TOTAL_STEPS='many' is not a whole number"),
    ):
        (alone,) = run_script(SCRIPT.format(named=""), 1, extra=extra, forked=True)
        assert alone.returncode == 1
        assert words in alone.stderr


def test_ranks_that_are_asked_for_different_strategies_disagree() -> None:
    script = "import os\nrank = os.environ['GEARSHIFT_RANK']\n" + (
        "os.environ['GEARSHIFT_STRATEGY'] = ['ps:asp', 'ps:bsp'][int(rank)]\n"
    )
    for ended in run_script(script + SCRIPT.format(named=""), 2, forked=True):
        assert ended.returncode != 0
        assert "MismatchError" in ended.stderr
        assert "consistency=" in ended.stderr
