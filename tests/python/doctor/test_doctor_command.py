"""`gearshift doctor` as users call it: alone, in jobs, and on two hosts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from gearshift_testing.network import ip
from gearshift_testing.ports import reserved_port

import gearshift.launch

PACKAGE_ROOT = Path(gearshift.launch.__file__).parents[2]
PATIENCE = 120.0
PORT = 29431
TOKEN = "d" * 64
DOCTOR = (sys.executable, "-m", "gearshift", "doctor")
RUN = (sys.executable, "-m", "gearshift", "run")


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This environment without what a launcher above the tests may have set."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GEARSHIFT_", "OMP_"))}
    path = os.pathsep.join([str(PACKAGE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**kept, "PYTHONPATH": path, "NO_COLOR": "1", **extra}


def start(*command: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        env=environment(variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def ended(*command: str, **variables: str) -> tuple[int, str, str]:
    return finish(start(*command, **variables))


def found(report: Mapping[str, Any], level: str) -> dict[str, str]:
    """What was found, by topic."""
    return {f["topic"]: f["found"] for f in report["findings"] if f["level"] == level}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("-n", "0"), "at least one process"),
        (("--timeout", "nan"), "positive number of seconds"),
        (("--nnodes", "-3"), "at least one node"),
        (("--node-rank", "5"), "outside 0…0"),
    ],
)
def test_options_that_cannot_work_are_refused(options: Sequence[str], told: str) -> None:
    code, out, err = ended(*DOCTOR, *options)
    assert code == 2
    assert told in err
    assert not out


def test_a_timeout_that_is_none_is_found_as_other_values_are() -> None:
    code, out, err = ended(*DOCTOR, "--json", GEARSHIFT_TIMEOUT="soon")
    assert code == 1, err
    problems = found(json.loads(out), "problem")
    assert "GEARSHIFT_TIMEOUT='soon' is not a positive number" in problems["place in a job"]


def test_a_token_file_is_looked_at_without_a_job_too(tmp_path: Path) -> None:
    code, out, _ = ended(*DOCTOR, "--json", "--token-file", str(tmp_path / "none"))
    assert code == 1
    assert "cannot read the token file" in found(json.loads(out), "problem")["token"]


def check_job(report: Mapping[str, Any], world: int) -> None:
    """All have come, links and ranks were measured, and results were right."""
    assert found(report, "problem") == {}
    assert [process["rank"] for process in report["processes"]] == list(range(world))
    assert sorted(map(int, report["paces"])) == list(range(world))
    assert sum(report["transports"].values()) == world * (world - 1) / 2
    assert all(link["there"] > 0 and link["back"] > 0 for link in report["links"])
    assert [entry["bytes"] for entry in report["all_reduces"]] == [1 << 12, 1 << 20, 1 << 24]
    assert f"{world} processes formed one" in found(report, "ok")["session"]


def test_alone():
    code, out, err = ended(*DOCTOR)
    assert code == 0, out + err
    for topic in ("versions", "processors", "shared windows", "interfaces", "token", "clock"):
        assert topic in out
    assert out.count("two processes over") == 2
    assert out.count("was right, and took") == 2
    assert "0 problems" in out or "all is well" in out


def test_alone_as_json_with_a_problem():
    code, out, _ = ended(*DOCTOR, "--json", GEARSHIFT_INTERFACE="192.0.2.77")
    assert code == 1
    problems = found(json.loads(out), "problem")
    assert "192.0.2.77 is no address of this host" in problems["address"]
    # The processes of a job find out the same way.
    assert "failed" in problems["two processes over TCP"]
    assert "192.0.2.77" in problems["two processes over TCP"]


def test_help():
    code, out, _ = ended(*DOCTOR, "--help")
    assert code == 0
    for option in ("--rdzv", "--nnodes", "--node-rank", "--json", "--timeout"):
        assert option in out


def test_two_processes():
    code, out, err = ended(*DOCTOR, "-n", "2", "--json")
    assert code == 0, out + err
    report = json.loads(out)
    check_job(report, 2)
    assert report["transports"] == {"shm": 1}
    assert len(report["links"]) == 1


def test_in_a_job_that_another_command_started():
    """Rank 0 prints one table for all."""
    run = (*RUN, "-n", "3", "--no-prefix", "--env", "GEARSHIFT_TRANSPORTS=tcp", "--", *DOCTOR)
    code, out, err = ended(*run)
    assert code == 0, out + err
    assert "3 of 3 processes" in out
    assert out.count("Pairs of processes: 3 over tcp") == 1
    assert "3 processes formed one" in out
    code, out, err = ended(*RUN, "-n", "3", "--no-prefix", "--", *DOCTOR, "--json")
    assert code == 0, out + err
    check_job(json.loads(out), 3)


def test_under_another_launcher():
    """RANK, WORLD_SIZE and their like: each process has only these."""
    with reserved_port() as port:
        ranks = [
            start(
                *DOCTOR,
                "--json",
                RANK=str(rank),
                WORLD_SIZE="2",
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=str(port),
            )
            for rank in (0, 1)
        ]
        (code, out, err), (other_code, other_out, other_err) = map(finish, ranks)
    assert code == 0, out + err
    assert other_code == 0, other_out + other_err
    check_job(json.loads(out), 2)
    assert other_out == ""


def test_processes_that_differ(tmp_path):
    """One of them has another version; the others are told which."""
    script = tmp_path / "job.py"
    script.write_text(
        "import os, sys\n"
        "from gearshift.doctor import versions\n"
        "from gearshift.doctor.__main__ import main\n"
        "if os.environ['GEARSHIFT_RANK'] == '1':\n"
        "    versions._installed = lambda package: '9.9'\n"
        "sys.exit(main())\n"
    )
    code, out, _ = ended(*RUN, "-n", "2", "--no-prefix", str(script), "--json")
    assert code == 1
    report = json.loads(out)
    assert "9.9: rank 1" in found(report, "problem")["gearshift's version"]
    assert "9.9: rank 1" in found(report, "problem")["PyTorch's version"]
    assert report["links"] == []


def test_a_process_that_ends_early(tmp_path):
    """It is named at once, and nobody waits for the timeout."""
    script = tmp_path / "job.py"
    script.write_text(
        "import os, sys\n"
        "from gearshift.doctor.__main__ import main\n"
        "sys.exit(3 if os.environ['GEARSHIFT_RANK'] == '1' else main())\n"
    )
    code, out, err = ended(*RUN, "-n", "2", "--timeout", "60", "--no-prefix", str(script), "--json")
    assert code == 3, err
    said = found(json.loads(out), "problem")["processes"]
    assert "rank 1 of 2 did not come" in said
    assert "rank 1 has ended: exit code 3" in said


def on_host(
    network: Any, host: int, *arguments: str, first: str = "", **variables: str
) -> subprocess.Popen[str]:
    """`gearshift doctor` on one of the two hosts; `first`: what it calls the first."""
    rdzv = f"{first or network.address(0)}:{PORT}"
    job = ("--nnodes", "2", "--node-rank", str(host), "--rdzv", rdzv)
    variables.setdefault("GEARSHIFT_TOKEN", TOKEN)
    return start(*network.enter(host), *DOCTOR, *job, *arguments, **variables)


def reports(*processes: subprocess.Popen[str]) -> Sequence[tuple[int, dict[str, Any]]]:
    made = []
    for process in processes:
        code, out, err = finish(process)
        assert out, err
        made.append((code, json.loads(out)))
    return made


@pytest.mark.netns
def test_two_hosts(network, tmp_path):
    both = [
        on_host(network, host, "-n", "2", "--json", XDG_CACHE_HOME=str(tmp_path)) for host in (0, 1)
    ]
    (code, report), (other_code, other) = reports(*both)
    assert code == 0, report["findings"]
    assert other_code == 0, other["findings"]
    check_job(report, 4)
    assert report["transports"] == {"shm": 2, "tcp": 4}
    addresses = [process["address"] for process in report["processes"]]
    assert addresses == [network.address(0)] * 2 + [network.address(1)] * 2
    assert {process["interface"] for process in report["processes"]} == {"eth0"}
    (between,) = (link for link in report["links"] if link["remote"])
    assert (between["a"], between["b"], between["transport"]) == (0, 2, "tcp")
    assert abs(between["clock"]) < 0.1  # it is one machine
    assert "reaches each other" in found(report, "ok")["connections"]
    assert "rank 0 has the whole" in found(other, "ok")["report"]


@pytest.mark.netns
def test_two_hosts_with_addresses_of_one_link_alone(network, tmp_path):
    """The interface that such an address needs has another name on each host."""
    network.lay_cable()
    (code, report), (other_code, _) = reports(
        *(
            on_host(
                network,
                host,
                "--json",
                first=network.over_cable(host),
                XDG_CACHE_HOME=str(tmp_path),
            )
            for host in (0, 1)
        )
    )
    assert (code, other_code) == (0, 0), report["findings"]
    check_job(report, 2)
    assert [process["address"] for process in report["processes"]] == [
        "fe80::1%cable0",
        "fe80::2%wire0",
    ]
    assert "reaches each other" in found(report, "ok")["connections"]
    assert "GEARSHIFT_RDZV" not in found(report, "warning")


@pytest.mark.netns
def test_a_host_is_missing(network):
    ((code, report),) = reports(on_host(network, 0, "--json", "--timeout", "2"))
    assert code == 1
    said = found(report, "problem")["processes"]
    assert f"rank 1 of 2 did not come to tcp://{network.address(0)}:{PORT} (node 1)" in said
    assert "there: rank 0 on " in said
    ((code, report),) = reports(on_host(network, 1, "--json", "--timeout", "2"))
    assert code == 1
    said = found(report, "problem")["rendezvous"]
    assert f"rank 1 cannot meet the others at {network.address(0)}:{PORT}" in said
    assert "refused" in said


@pytest.mark.netns
def test_another_token(network):
    first = on_host(network, 0, "--json", "--timeout", "6")
    second = on_host(network, 1, "--json", "--timeout", "6", GEARSHIFT_TOKEN="e" * 64)
    (code, report), (other_code, other) = reports(first, second)
    assert (code, other_code) == (1, 1)
    assert "did not come" in found(report, "problem")["processes"]
    assert "cannot meet the others" in found(other, "problem")["token"]


@pytest.mark.netns
def test_a_firewall_that_lets_only_the_rendezvous_through(network):
    """A router drops packets to other ports of node 0 in silence."""
    rule = ("to", network.address(0), "ipproto", "tcp", "dport", "30000-65000", "blackhole")
    ip("-n", network.router, "rule", "add", *rule)
    both = [on_host(network, host, "--json", "--timeout", "20") for host in (0, 1)]
    (code, report), (other_code, other) = reports(*both)
    assert (code, other_code) == (1, 1)
    for told in (report, other):
        (finding,) = (f for f in told["findings"] if f["level"] == "problem")
        assert "(rank 1) cannot connect to" in finding["found"]
        assert f"at {network.address(0)}" in finding["found"]
        assert "no answer within" in finding["found"]
        assert "ip_local_port_range" in finding["todo"]
    assert report["links"] == []


@pytest.mark.netns
def test_a_slow_direction(network, tmp_path):
    """Node 1 sends at 80 Mbit/s, and receives at full speed."""
    shape = ("qdisc", "add", "dev", "eth0", "root", "tbf")
    rate = ("rate", "80mbit", "burst", "32kb", "latency", "50ms")
    subprocess.run([*network.enter(1), "tc", *shape, *rate], check=True)
    both = [on_host(network, host, "--json", XDG_CACHE_HOME=str(tmp_path)) for host in (0, 1)]
    (code, report), (other_code, _) = reports(*both)
    assert (code, other_code) == (0, 0)
    (link,) = report["links"]
    assert link["there"] > 2 * link["back"]
    assert link["back"] < 1.3 * 80e6 / 8
    assert "MB/s the other way" in found(report, "warning")["asymmetric link"]


@pytest.mark.netns
def test_the_wrong_interface(network):
    """Both hosts have it, and it leads nowhere: the way to it is tried before a session is."""
    first = on_host(network, 0, "--json", "--interface", "192.0.2.1", "--timeout", "20")
    second = on_host(network, 1, "--json", "--timeout", "20")
    (code, report), (other_code, other) = reports(first, second)
    assert (code, other_code) == (1, 1)
    for told in (report, other):
        said = found(told, "problem")["connections"]
        assert "(rank 1) cannot connect to" in said
        assert "(rank 0) at 192.0.2.1" in said
    assert report["links"] == []
