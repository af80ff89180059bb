"""Folders in which something real goes wrong: a full disk, a forbidden folder, another device."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

NOBODY = 65534


@contextlib.contextmanager
def tiny_disk(folder: Path, *, kilobytes: int = 64) -> Iterator[Path]:
    """Mount an empty file system of a few kilobytes on a new folder; only root may."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount the small file system that this test fills")
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("this machine does not let root mount the small file system that this test fills")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextlib.contextmanager
def unprivileged() -> Iterator[Path]:
    """Take root's rights away from this process for a while, so that modes count; give a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="scanward-test-") as name:
        folder = Path(name)
        if os.geteuid() != 0:
            yield folder
            return
        os.chown(folder, NOBODY, NOBODY)
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
        try:
            yield folder
        finally:
            os.seteuid(0)
            os.setegid(0)


@contextlib.contextmanager
def other_device(folder: Path) -> Iterator[Path]:
    """Give a folder on another device than `folder`, where files can only be copied to."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == folder.stat().st_dev or not os.access(shared, os.W_OK):
        pytest.skip("this machine has no second device at /dev/shm")
    with tempfile.TemporaryDirectory(prefix="scanward-test-", dir=shared) as name:
        yield Path(name)


def make_socket(path: Path) -> None:
    """Leave a socket at a path of any length."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as stream:
            # A socket's address holds 108 bytes; the way over the open folder is always short.
            stream.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


@contextlib.contextmanager
def deep_folder(folder: Path, length: int) -> Iterator[Path]:
    """Make folders below `folder` until the path is `length` bytes long, which may be more than the kernel takes."""
    path = os.fsencode(folder)
    descriptor = os.open(folder, os.O_RDONLY)
    first = b""
    try:
        while len(path) < length:
            name = b"d" * min(200, max(1, length - len(path) - 1))
            first = first or path + b"/" + name
            os.mkdir(name, dir_fd=descriptor)
            deeper = os.open(name, os.O_RDONLY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = deeper
            path += b"/" + name
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
        if first:
            shutil.rmtree(first)
