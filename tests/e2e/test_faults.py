"""What breaks in a real federation: each thing is broken here, with real processes, and the run must end right or say why.

Slow, and mostly waiting. One federation serves the whole file. Noise comes from a seed, so that a run in which nothing was
lost must give, bit by bit, the model of the simulation.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time

import pytest
from breaking import CANARIES, SITES, WHEN_ASKED, Federation, lines, lost, missed, model
from listener import Listener
from pmfed_simulations.deployment import until

from pmfed.errors import RunError

pytestmark = WHEN_ASKED

CUT = float(os.environ.get("PMFED_TEST_CUT", "10"))  # seconds


def test_courier_superlink_and_cable_may_fail_and_nothing_is_lost(broken: Federation) -> None:
    run = broken.run("unharmed", 4)
    run.reached(1)
    broken.d.kill("north", "courier")
    run.reached(2)
    broken.d.kill("hub", "superlink")
    if broken.cable:
        run.reached(3)
        broken.cable.cut()
        time.sleep(CUT)
        broken.cable.mend()
    code, said = run.end()
    assert code == 0, said
    broken.check_books(run.out, 1)
    rounds = json.loads((run.out / "result.json").read_text())["rounds"]
    assert rounds == len(lines(run.out))
    if rounds == 4 and not lost(run.out):
        assert model(run.out) == broken.simulated("unharmed")


@pytest.mark.quick
def test_dropout_recovery_gives_the_model_of_the_simulation(broken: Federation) -> None:
    run = broken.run("recovering", 1, aggregation={"dropouts": 1})
    code, said = run.end()
    assert code == 0, said
    assert lost(run.out) == []
    assert model(run.out) == broken.simulated("recovering")


@pytest.mark.quick
def test_an_agent_that_is_killed_takes_part_again(broken: Federation) -> None:
    run = broken.run("agent", 8)
    run.reached(1)
    broken.d.kill("south", "agent")
    code, said = run.end()
    assert code == 0, said
    assert missed(run.out, "south")
    assert lines(run.out)[-1]["sites"] == len(SITES)
    broken.check_books(run.out, 1)


def test_a_server_app_that_is_killed_leaves_a_run_that_can_go_on(broken: Federation) -> None:
    run = broken.run("server", 5)
    run.reached(2)
    [process] = broken.d.serverapps()
    os.kill(process, signal.SIGKILL)
    code, said = run.end()
    assert code == RunError.exit_code, said
    assert "error PM510: the run ended without a result" in said
    assert not (run.out / "result.json").exists()
    broken.d.kill("hub", "superlink")  # which is waited for
    code, said = broken.d.resume(run.out).end()
    assert code == 0, said
    broken.check_books(run.out, 2)
    # The round under way may have been charged, and counts as if it had: one step less is taken, and under another number.
    assert [(line["round"], line["attempt"]) for line in lines(run.out)] == [(1, 0), (2, 0), (3, 100), (4, 100)]
    assert max(charged for charged, _ in broken.d.books(run.out).values()) <= 5


def test_a_super_node_that_is_killed_and_a_site_that_leaves_for_good(broken: Federation) -> None:
    run = broken.run("leaving", 9)
    run.reached(1)
    broken.d.kill("south", "node")
    broken.d.stop("east")
    code, said = run.end()
    assert code == 0, said
    assert missed(run.out, "east")
    result = json.loads((run.out / "result.json").read_text())
    assert "east" in result["left"]
    assert not (run.out / "receipts" / "east.json").exists()
    broken.check_books(run.out, 1)
    broken.start("east")
    code, said = broken.run("back", 1).end()
    assert code == 0, said
    assert "accepted: east, north, south, west" in said


def test_a_disk_that_is_full(broken: Federation) -> None:
    """A site that cannot write down what it would release releases nothing, says so, and stays for better times."""
    if broken.disk is None:
        pytest.skip("only root may mount a disk")
    run = broken.run("full", 12)
    run.reached(1)
    broken.disk.fill()
    until(lambda: missed(run.out, "south") or run.process.poll() is not None)
    broken.d.kill("south", "courier")  # its keeper must be able to do its work
    broken.disk.empty()
    code, said = run.end()
    assert code == 0, said
    assert "its privacy ledger cannot be used" in missed(run.out, "south")[0]
    assert lines(run.out)[-1]["sites"] == len(SITES)
    broken.check_books(run.out, 1)


@pytest.mark.quick
def test_the_listener_hears_what_passes_over_the_loopback_interface() -> None:
    """Else the search for canaries in what was said could find none."""
    begun, answered = b"asked " + CANARIES[0], b"answered " * 10
    try:
        listener = Listener([begun, answered, b"never said"])
    except PermissionError:
        pytest.skip("only root may listen")
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as one,
        server.accept()[0] as other,
    ):
        one.sendall(begun[:9])
        time.sleep(0.1)  # in two packets
        one.sendall(begun[9:])
        other.sendall(b"answered " * 20000)
        one.recv(1)
    time.sleep(1)
    listener.remove()
    assert listener.missed == 0
    assert listener.heard == {begun, answered}
