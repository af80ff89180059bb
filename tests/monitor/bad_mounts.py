"""Mounts that really misbehave: a dead network file system, and an automount point that counts its visitors."""

from __future__ import annotations

import contextlib
import os
import select
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

_INIT_REPLY = struct.pack("<IIIIHHIIHHI28x", 7, 26, 65536, 0, 12, 9, 65536, 1, 1, 0, 0)


@contextlib.contextmanager
def dead_server(*, is_deadly: bool) -> Iterator[int]:
    """Serve a FUSE file system that never answers; give the descriptor for `mount_dead`.

    A process that asks it anything waits for ever. It can still be killed, unless `is_deadly`: then the server has
    taken the question, and the kernel lets nobody go who waits for the reply, as with a hard NFS mount.
    """
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        pytest.skip("only root, where the kernel has FUSE, may mount the dead file system of this test")
    server = os.open("/dev/fuse", os.O_RDWR)
    stop, stopped = os.pipe()

    def serve() -> None:
        # Nothing can be read before the mount is there; the kernel then speaks first.
        poll = select.poll()
        poll.register(stop, select.POLLIN)
        poll.register(server, select.POLLIN)
        is_greeted = False
        while not select.select([stop], [], [], 0.01)[0]:
            ready = dict(poll.poll(50))
            if ready.get(server, 0) & select.POLLIN:
                question = os.read(server, 1 << 17)
                if not is_greeted:
                    (unique,) = struct.unpack_from("<Q", question, 8)
                    os.write(server, struct.pack("<IiQ", 16 + len(_INIT_REPLY), 0, unique) + _INIT_REPLY)
                    is_greeted = True
                    if not is_deadly:
                        return

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield server
    finally:
        os.write(stopped, b".")
        thread.join()
        for descriptor in (server, stop, stopped):
            os.close(descriptor)  # with its server gone, the kernel lets all go who wait


def mount_dead(server: int, folder: Path) -> list[str]:
    """Return lines for bash that mount the dead file system where only their own process and its children see it."""
    options = f"fd={server},rootmode=40000,user_id=0,group_id=0,allow_other"
    # Whoever keeps the server's descriptor keeps the server alive, also from within a wait for it.
    return [f"mount -i -t fuse.sshfs -o {options} stuck '{folder}'", f"exec {server}>&-"]


@contextlib.contextmanager
def automount_trap(folder: Path) -> Iterator[int]:
    """Make a folder an automount point; whoever touches it leaves a packet in the pipe that is given."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount the automount point of this test")
    folder.mkdir()
    visitors, kernel = os.pipe()
    options = f"fd={kernel},pgrp={os.getpgrp()},minproto=5,maxproto=5,direct"
    done = subprocess.run(
        ["mount", "-i", "-t", "autofs", "-o", options, "trap", str(folder)],
        pass_fds=[kernel],
        capture_output=True,
        check=False,
    )
    os.close(kernel)
    if done.returncode:
        os.close(visitors)
        pytest.skip("the kernel of this machine has no automount points")
    try:
        yield visitors
    finally:
        subprocess.run(["umount", "-l", "-i", str(folder)], check=True)
        os.close(visitors)
