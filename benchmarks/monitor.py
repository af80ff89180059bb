"""How long a fleet of 1,000 machines takes to ask, a twentieth of it faulty in twelve ways; all on this machine.

Run: .venv/bin/python benchmarks/monitor.py
The machines are one asyncssh server in a process of its own, asked at 1,000 loopback addresses with the real probe.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from measure import print_table

from tasks.monitor.fleet import Limits, Machine, ask_fleet
from tasks.monitor.probe import POSIX_COMMAND, Questions, posix_probe
from tasks.monitor.ssh import Address, read_known_hosts
from tests.monitor.chaos import SERVERS, black_hole, serve
from tests.monitor.sshd import Keys, free_port, make_keys

NONCE = "0123456789abcdef"
WAYS = ("silent", "endless-greeting", "greets-and-waits", "garbage", "closes", "web-server", "old-protocol")
ASTRAY = ("never-ends", "a-flood")
MUST = {"wall": 60.0, "cpu": 10.0, "memory": 200.0}


def serve_fleet(key: Path, port: int) -> None:
    """Be every machine at once: healthy at 127.1.x.y, astray at 127.2.0.x and 127.3.0.x."""
    import asyncssh  # noqa: PLC0415 - only the serving process needs it

    class Server(asyncssh.SSHServer):
        def public_key_auth_supported(self) -> bool:
            return True

        def validate_public_key(self, username: str, key: Any) -> bool:  # noqa: ARG002
            return True

    async def session(process: Any) -> None:
        net = process.get_extra_info("sockname")[0].split(".")[1]
        await process.stdin.read(100)
        if net == "2":
            await asyncio.sleep(600)
        elif net == "3":
            with contextlib.suppress(Exception):
                for _ in range(200):
                    process.stdout.write(b"y" * 65536)
                    await process.stdout.drain()
        process.stdout.write(f"{NONCE} done 0\n".encode())
        process.exit(0)

    async def run() -> None:
        await asyncssh.create_server(
            Server, "0.0.0.0", port, server_host_keys=[str(key)], encoding=None, process_factory=session
        )
        await asyncio.Event().wait()

    asyncio.run(run())


def fleet(keys: Keys, port: int, hosts: int, stack: contextlib.ExitStack) -> dict[Machine, set[str]]:
    """Make the machines, and what may be said of each."""
    made: dict[Machine, set[str]] = {}

    def add(name: str, host: str, where: int, kinds: set[str], *, is_known: bool = True) -> None:
        address = Address(host=host, port=where, user="watch", key_files=(keys.user_key,))
        if is_known:
            keys.know(address.known_as)
        machine = Machine(
            name=name, site=f"site {len(made) // 4}", path=(address,), command=POSIX_COMMAND,
            stdin=posix_probe(Questions(), NONCE), until=_is_done,
        )  # fmt: skip
        made[machine] = kinds

    faulty = hosts // 20
    for number in range(hosts - faulty):
        add(f"well-{number}", f"127.1.{number // 250}.{number % 250 + 1}", port, set())
    hole = stack.enter_context(black_hole())
    strange = {name: stack.enter_context(serve(SERVERS[name][0])) for name in WAYS}
    for number in range(faulty):
        ways = (*WAYS, *ASTRAY, "black-hole", "refused", "host-unknown")
        way = ways[number % len(ways)]
        name = f"{way}-{number}"
        if way in WAYS:
            add(name, f"127.0.0.{number + 1}" if way == "none" else "127.0.0.1", strange[way], SERVERS[way][1])
        elif way == "never-ends":
            add(name, f"127.2.0.{number + 1}", port, {"timeout"})
        elif way == "a-flood":
            add(name, f"127.3.0.{number + 1}", port, {"answer-too-long"})
        elif way == "black-hole":
            add(name, "127.0.9.9", hole, {"timeout"})
        elif way == "refused":
            add(name, "127.0.0.1", free_port(), {"refused"})
        else:
            add(name, f"127.4.0.{number + 1}", port, {"host-unknown"}, is_known=False)
    return made


def _is_done(said: bytes) -> bool:
    return f"{NONCE} done".encode() in said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--serve", nargs=2, metavar=("KEY", "PORT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve_fleet(Path(given.serve[0]), int(given.serve[1]))
        return
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        keys, port = make_keys(Path(name) / "keys"), free_port()
        server = subprocess.Popen([sys.executable, __file__, "--serve", keys.host_key, str(port)])
        stack.callback(server.wait)
        stack.callback(server.kill)
        time.sleep(2)
        machines = fleet(keys, port, given.hosts, stack)
        known = read_known_hosts(keys.known_hosts)
        limits = Limits(step_s=4.0, probe_s=8.0, workers=64, again_after_s=(1.0, 3.0))
        cpu = time.process_time()
        found = ask_fleet(list(machines), known=known, limits=limits)
        cpu = time.process_time() - cpu
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        wrong = []
        for machine, kinds in machines.items():
            fault = found.asked[machine.name].fault
            if (fault.kind if fault is not None else "") not in (kinds or {""}):
                wrong.append((machine.name, fault.kind if fault is not None else "well"))
    print_table(
        f"{given.hosts} machines, {given.hosts // 20} of them faulty in 12 ways; {os.cpu_count()} cores",
        ("what", "took", "must"),
        [
            ("seconds on the clock", f"{found.seconds:.1f}", f"{MUST['wall']:.0f}"),
            ("CPU seconds", f"{cpu:.1f}", f"{MUST['cpu']:.0f}"),
            ("memory at its highest, MB", f"{memory:.0f}", f"{MUST['memory']:.0f}"),
            ("named wrongly", str(len(wrong)), "0"),
        ],
    )
    for name, kind in wrong[:10]:
        print(f"  {name}: {kind}")


if __name__ == "__main__":
    main()
