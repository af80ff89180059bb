"""What the tests of the night watch share: SSH servers and keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tasks.monitor.ssh import Address
from tests.monitor.sshd import Keys, make_keys, sshd


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory, program: Callable[[str], str]) -> Keys:
    program("ssh-keygen")
    return make_keys(tmp_path_factory.mktemp("ssh") / "keys")


@pytest.fixture(scope="session")
def server(program: Callable[[str], str], keys: Keys) -> Iterator[Address]:
    """Run a usual SSH server."""
    with sshd(program("sshd"), keys) as address:
        yield address


@pytest.fixture(scope="session")
def other(program: Callable[[str], str], keys: Keys) -> Iterator[Address]:
    """Run another one, at another address."""
    with sshd(program("sshd"), keys, host="127.0.0.2") as address:
        yield address
