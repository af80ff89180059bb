"""A screen that is not there, for windows that are."""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.conftest import _cannot_run

os.environ["QT_QPA_PLATFORM"] = "offscreen"
os.environ.setdefault("XDG_RUNTIME_DIR", os.environ.get("TMPDIR", "/tmp"))


@pytest.fixture(scope="session")
def qt() -> Any:
    """Give the one Qt application."""
    try:
        from viewer.qt.application import application
    except ImportError as fault:
        _cannot_run(f"Qt cannot be loaded ({fault}); .ci/debian-packages.txt names the libraries")
    return application()
