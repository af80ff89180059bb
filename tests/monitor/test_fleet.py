"""A fleet is asked at once; who does not answer is asked again; who is to blame is told once."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.monitor.fleet import Asked, Limits, Machine, Round, Target, ask_fleet, down_behind
from tasks.monitor.ssh import Address, read_known_hosts
from tests.monitor.chaos import SERVERS, black_hole, serve
from tests.monitor.sshd import Keys, free_port, sshd
from tests.orthanc import SENDER, TITLE, Orthanc, orthanc

QUICK = Limits(step_s=2.0, probe_s=5.0, machine_s=15.0, fleet_s=90.0, again_after_s=(0.2, 0.4))


@pytest.fixture(scope="module")
def archive(program: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with orthanc(program("Orthanc"), tmp_path_factory.mktemp("archive") / "orthanc") as running:
        yield running


def _machine(name: str, *path: Address, site: str = "", targets: tuple[Target, ...] = ()) -> Machine:
    return Machine(name=name, site=site or name, path=path, command="sh -s", stdin=b"echo hi\n", targets=targets)


def _ask(machines: list[Machine], keys: Keys, limits: Limits = QUICK, **more: object) -> Round:
    return ask_fleet(machines, known=read_known_hosts(keys.known_hosts), limits=limits, **more)  # type: ignore[arg-type]


def count_kinds(found: Round) -> Counter[str]:
    return Counter(asked.fault.kind for asked in found.asked.values() if asked.fault is not None)


def _target(archive: Orthanc, **more: object) -> Target:
    return replace(Target(name="PACS", host="127.0.0.1", port=archive.dicom_port, called=TITLE, calling=SENDER), **more)


def test_targets_are_asked_from_the_machines_place(
    archive: Orthanc, server: Address, other: Address, keys: Keys
) -> None:
    targets = (
        _target(archive),
        _target(archive, name="wrong", called="WRONG"),
        _target(archive, name="closed", port=free_port()),
        _target(archive, name="nameless", host="no-such-host.invalid"),
    )
    found = _ask(
        [_machine("direct", server, targets=targets), _machine("far", server, other, targets=targets[:1])], keys
    )
    direct = {name: one.verdict for name, one in found.asked["direct"].echoes.items()}
    assert direct == {"PACS": "ok", "wrong": "rejected", "closed": "refused", "nameless": "name-unknown"}
    assert found.asked["far"].echoes["PACS"].verdict == "ok"
    answer = found.asked["direct"].answer
    assert answer is not None
    assert answer.out == b"hi\n"


def test_a_machine_that_forwards_nothing_asks_with_its_own_tools(
    program: Callable[[str], str], archive: Orthanc, keys: Keys
) -> None:
    program("echoscu")
    with sshd(program("sshd"), keys, more="AllowTcpForwarding no") as closed:
        targets = (
            _target(archive),
            _target(archive, name="wrong", called="WRONG"),
            _target(archive, name="closed", port=free_port()),
        )
        found = _ask([_machine("closed", closed, targets=targets)], keys).asked["closed"]
    assert found.fault is None
    assert {name: one.verdict for name, one in found.echoes.items()} == {
        "PACS": "ok",
        "wrong": "rejected",
        "closed": "refused",
    }


def test_without_such_a_tool_an_open_port_is_not_taken_for_a_pacs(
    program: Callable[[str], str], archive: Orthanc, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.monitor.fleet._ASK_THERE", _without_echoscu())
    with sshd(program("sshd"), keys, more="AllowTcpForwarding no") as closed:
        targets = (_target(archive), _target(archive, name="closed", port=free_port()))
        found = _ask([_machine("closed", closed, targets=targets)], keys).asked["closed"]
    assert {name: one.verdict for name, one in found.echoes.items()} == {"PACS": "port-open", "closed": "refused"}


def _without_echoscu() -> str:
    from tasks.monitor import fleet

    return fleet._ASK_THERE.replace("command -v echoscu", "command -v no-such-tool")


def test_a_dead_machine_on_the_way_is_one_line(server: Address, other: Address, keys: Keys) -> None:
    gone = replace(server, port=free_port())
    machines = [_machine("alive", server), _machine("through", server, other)]
    machines += [_machine(f"behind-{number}", gone, other) for number in range(9)]
    found = _ask(machines, keys)
    assert down_behind(found, machines) == {gone.known_as: [f"behind-{number}" for number in range(9)]}
    assert found.asked["through"].fault is None
    assert not found.is_cut_off


def test_who_answers_late_is_not_down(server: Address, keys: Keys) -> None:
    knocks = []

    def shy(sock: socket.socket) -> None:
        """Pass on every third connection, and hang up on the others."""
        knocks.append(1)
        if len(knocks) % 3:
            return
        with socket.create_connection((server.host, server.port)) as behind:
            threading.Thread(target=_copy, args=(behind, sock), daemon=True).start()
            _copy(sock, behind)

    with serve(shy) as port:
        keys.know(f"[127.0.0.1]:{port}")
        found = _ask([_machine("shy", replace(server, port=port))], keys).asked["shy"]
    assert (found.fault, found.tries) == (None, 3)


def _copy(one: socket.socket, other: socket.socket) -> None:
    try:
        while piece := one.recv(1 << 16):
            other.sendall(piece)
        other.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def test_a_watch_without_a_network_says_so(server: Address, keys: Keys) -> None:
    lost = [_machine(f"m{number}", replace(server, port=free_port()), site=f"s{number}") for number in range(6)]
    assert _ask(lost, keys).is_cut_off
    one_left = [*lost[:4], _machine("alive", server)]
    assert not _ask(one_left, keys).is_cut_off, "somebody answers"
    with serve(lambda sock: None) as port:
        assert not _ask(lost, keys, references=[("127.0.0.1", port)]).is_cut_off, "the gateway answers"
    assert _ask(lost[:2], keys, references=[("127.0.0.1", free_port())]).is_cut_off, "not even the gateway does"


def test_what_no_second_try_can_mend_is_not_tried_again(server: Address, keys: Keys, tmp_path: Path) -> None:
    empty = Keys(folder=tmp_path)
    found = _ask([_machine("stranger", server)], empty)
    assert found.asked["stranger"].tries == 1
    assert count_kinds(found) == {"host-unknown": 1}


def test_the_fleets_deadline_holds(keys: Keys) -> None:
    with black_hole() as port:
        hole = Address(host="127.0.9.9", port=port, user="x", key_files=(keys.user_key,))
        machines = [_machine(f"m{number}", hole, site=str(number)) for number in range(20)]
        limits = replace(QUICK, step_s=2.0, fleet_s=5.0, workers=2)
        begun = time.monotonic()
        found = _ask(machines, keys, limits)
        assert time.monotonic() - begun < limits.fleet_s + 5
    assert len(found.asked) == 20
    assert count_kinds(found) == {"timeout": 20}


@pytest.mark.parametrize("hosts", [8, pytest.param(30, marks=pytest.mark.long)])
def test_a_fleet_of_real_servers_with_black_holes_and_a_pacs(
    hosts: int, program: Callable[[str], str], archive: Orthanc, keys: Keys
) -> None:
    limits = Limits() if hosts == 30 else QUICK
    with ExitStack() as stack:
        machines = []
        for number in range(hosts):
            address = stack.enter_context(sshd(program("sshd"), keys, host=f"127.0.1.{number + 1}"))
            targets = (_target(archive),) if number % 3 == 0 else ()
            machines.append(_machine(f"m{number}", address, targets=targets))
        port = stack.enter_context(black_hole())
        hole = Address(host="127.0.9.9", port=port, user="x", key_files=(keys.user_key,))
        machines += [_machine(f"hole{number}", hole, site="hole") for number in range(3)]
        strange = {}
        for name, (act, kinds) in SERVERS.items():
            where = stack.enter_context(serve(act))
            strange[name] = kinds
            machines.append(_machine(name, replace(hole, host="127.0.0.1", port=where), site=name))
        found = _ask(machines, keys, limits)
    assert all(asked.seconds < limits.machine_s + 1 for asked in found.asked.values())
    for machine in machines:
        asked: Asked = found.asked[machine.name]
        if machine.name in strange:
            assert asked.fault is not None
            assert asked.fault.kind in strange[machine.name]
        elif machine.name.startswith("hole"):
            assert asked.fault is not None
            assert (asked.fault.kind, asked.tries) == ("timeout", 3)
        else:
            assert asked.fault is None, asked
            assert all(one.verdict == "ok" for one in asked.echoes.values())


@pytest.mark.long
def test_lost_connections_are_never_called_down(server: Address, keys: Keys) -> None:
    """A hundred nights of ten machines of which one connection in thirty is lost: three in a row are one in 27,000."""
    chance = random.Random(11)

    def lossy(sock: socket.socket) -> None:
        if chance.random() < 1 / 30:
            return
        with socket.create_connection((server.host, server.port)) as behind:
            threading.Thread(target=_copy, args=(behind, sock), daemon=True).start()
            _copy(sock, behind)

    tries = []
    with serve(lossy) as port:
        keys.know(f"[127.0.0.1]:{port}")
        machines = [_machine(f"m{number}", replace(server, port=port)) for number in range(10)]
        for _ in range(100):
            found = _ask(machines, keys, replace(QUICK, again_after_s=(0.01, 0.02)))
            assert count_kinds(found) == {}
            tries += [asked.tries for asked in found.asked.values()]
    assert max(tries) > 1, "some were lost, and found"
