"""Which address would be chosen, and what is said of names, interfaces and connections."""

from __future__ import annotations

import socket

import pytest

from gearshift.doctor import choice, naming, reach
from gearshift.doctor.interfaces import Interface, list_interfaces

LO = Interface("lo", ("127.0.0.1", "::1"), up=True, loopback=True, mtu=65536, speed=None)
ETH = Interface("eth0", ("10.0.0.5",), up=True, loopback=False, mtu=1500, speed=1000)
FAST = Interface("ens1", ("10.9.0.5",), up=True, loopback=False, mtu=9000, speed=25000)
DOCKER = Interface("docker0", ("172.17.0.1",), up=True, loopback=False, mtu=1500, speed=None)
DOWN = Interface("eth1", ("10.1.0.5",), up=False, loopback=False, mtu=1500, speed=40000)
ALL = [LO, ETH, DOWN]


def choose(rdzv=None, wanted=None, interfaces=ALL, source="10.0.0.5", known=("10.0.0.9",)):
    def route(_: str) -> str:
        if source is None:
            raise OSError(101, "Network is unreachable")
        return source

    def look_up(_: str) -> tuple[str, ...]:
        if known is None:
            raise socket.gaierror(-2, "Name or service not known")
        return known

    return choice.choose(interfaces, rdzv, wanted, route, look_up)


def verdict(made: choice.Choice, interfaces=ALL, several: bool = True):
    """The level, and the finding that is not ok."""
    found = choice.check(made, interfaces, several)
    bad = [finding for finding in found if finding.level != "ok"]
    assert len(bad) <= 1, bad
    return (bad[0].level, bad[0]) if bad else ("ok", found[-1])


def test_the_way_to_the_rendezvous():
    made = choose("tcp://node0:29400")
    assert (made.address, made.interface) == ("10.0.0.5", ETH)
    level, finding = verdict(made)
    assert level == "ok"
    assert "10.0.0.5 (eth0)" in finding.found
    assert "the way to node0 begins there" in finding.found


def test_without_a_rendezvous_the_default_route_counts():
    assert "default route" in choose().why
    level, finding = verdict(choose(source=None), several=False)
    assert level == "ok"
    assert "no default route" in finding.found


def test_the_user_chooses():
    made = choose("tcp://node0:29400", wanted="10.0.0.5")
    assert made.why == "GEARSHIFT_INTERFACE says so"
    for wrong, said in (("10.3.0.5", "no address of this host"), ("eth0", "name of an interface")):
        level, finding = verdict(choose(wanted=wrong))
        assert level == "problem"
        assert said in finding.found


def test_the_user_chooses_an_address_of_one_link_alone():
    near = "fe80::5%eth0"
    made = choose(wanted=near, source=near)
    assert (made.address, made.interface) == (near, ETH)
    for wrong, source in (("fe80::6%eth0", near), (near, None)):
        level, finding = verdict(choose(wanted=wrong, source=source))
        assert level == "problem"
        assert "no address of this host" in finding.found


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"known": None}, "'node0' does not resolve"),
        ({"source": None}, "no route to 10.0.0.9"),
        ({"rdzv": "node0"}, "not HOST:PORT"),
    ],
)
def test_no_way(arguments, said):
    level, finding = verdict(choose(**{"rdzv": "node0:29400", **arguments}))
    assert level == "problem"
    assert said in finding.found


def test_loopback_between_hosts():
    made = choose("node0:29400", source="127.0.0.1", known=("127.0.1.1",))
    level, finding = verdict(made)
    assert level == "problem"
    assert "10.0.0.5 (eth0)" in finding.todo
    assert verdict(made, several=False)[0] == "ok"


def test_doubtful_interfaces():
    level, finding = verdict(
        choose(interfaces=[LO, DOCKER, ETH], source="172.17.0.1"), [LO, DOCKER, ETH]
    )
    assert level == "warning"
    assert "10.0.0.5 (eth0)" in finding.todo
    level, finding = verdict(choose(interfaces=[LO, ETH, FAST]), [LO, ETH, FAST])
    assert level == "warning"
    assert "GEARSHIFT_INTERFACE=10.9.0.5" in finding.todo


def test_interfaces_of_this_machine():
    found = {interface.name: interface for interface in list_interfaces()}
    assert found["lo"].loopback
    assert "127.0.0.1" in found["lo"].addresses
    assert found["lo"].mtu is not None
    assert {name for _, name in socket.if_nameindex()} == set(found)


def test_the_name_of_the_host():
    good = naming.check(naming.Naming("a", ("10.0.0.5",)), "10.0.0.5")
    assert good.level == "ok"
    debian = naming.check(naming.Naming("a", ("127.0.1.1",)), "10.0.0.5")
    assert debian.level == "warning"
    assert "127.0.1.1" in debian.why
    assert "--rdzv 10.0.0.5:29400" in debian.todo
    assert naming.check(naming.Naming("a", (), "not known"), None).level == "warning"
    version_6 = naming.check(naming.Naming("a", (), "not known"), "fd00::5")
    assert "--rdzv [fd00::5]:29400" in version_6.todo


def test_a_listener_is_reached_and_a_closed_port_is_not():
    listener = reach.Listener("127.0.0.1")
    try:
        address, port = listener.endpoint
        assert reach.probe({1: (address, port)}, address) == {1: ""}
    finally:
        listener.close()
    assert "refused" in reach.probe({1: (address, port)}, address)[1]
    with pytest.raises(OSError, match="assign"):
        reach.Listener("192.0.2.77")


def test_a_firewall_is_a_problem_in_the_direction_that_is_needed():
    names = {0: "a", 1: "b"}
    ends = {0: ("10.0.0.1", 40000), 1: ("10.0.0.2", 40001)}
    fine = [reach.Reach(0, 1, ""), reach.Reach(1, 0, "")]
    assert [finding.level for finding in reach.judge(fine, names, ends)] == ["ok"]
    wall = [reach.Reach(0, 1, ""), reach.Reach(1, 0, "no answer within 4 s")]
    (finding,) = reach.judge(wall, names, ends)
    assert finding.level == "problem"
    assert "b (rank 1) cannot connect to a (rank 0) at 10.0.0.1" in finding.found
    assert "ip_local_port_range" in finding.todo
    (finding,) = reach.judge(
        [reach.Reach(0, 1, "Connection refused"), reach.Reach(1, 0, "")], names, ends
    )
    assert finding.level == "warning"
    assert "other direction works" in finding.why
