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
def dead_mount(folder: Path, *, is_deadly: bool) -> Iterator[Path]:
    """Mount a FUSE file system whose server never answers.

    A process that asks it anything waits for ever. It can still be killed, unless `is_deadly`: then the server has
    taken the question, and the kernel lets nobody go who waits for the reply, as with a hard NFS mount.
    """
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        pytest.skip("only root, where the kernel has FUSE, may mount the dead file system of this test")
    folder.mkdir()
    server = os.open("/dev/fuse", os.O_RDWR)
    stop, stopped = os.pipe()
    options = f"fd={server},rootmode=40000,user_id=0,group_id=0,allow_other"
    done = subprocess.run(
        ["mount", "-i", "-t", "fuse.sshfs", "-o", options, "stuck", str(folder)],
        pass_fds=[server],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        os.close(server)
        pytest.skip("this machine does not let root mount the dead file system of this test")

    def swallow() -> None:
        while stop not in select.select([server, stop], [], [])[0]:
            os.read(server, 1 << 17)

    first = os.read(server, 1 << 17)
    (unique,) = struct.unpack_from("<Q", first, 8)
    os.write(server, struct.pack("<IiQ", 16 + len(_INIT_REPLY), 0, unique) + _INIT_REPLY)
    thread = threading.Thread(target=swallow) if is_deadly else None
    if thread:
        thread.start()
    try:
        yield folder
    finally:
        os.write(stopped, b".")
        if thread:
            thread.join()
        subprocess.run(["umount", "-l", "-i", str(folder)], check=True)
        for descriptor in (server, stop, stopped):
            os.close(descriptor)  # with its server gone, the kernel lets all go who wait


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
