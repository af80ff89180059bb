"""A dump and a store for the tests of archives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.index.packing import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Bench]:
    """Give a function that makes a new dump and store, for each example of a property."""
    return lambda: Bench(tmp_path_factory.mktemp("bench"))
