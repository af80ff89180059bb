"""Of an unexpected fault only its kind and place are ever told outside: its words may be a patient's."""

from __future__ import annotations

import io
import logging
import os
import stat
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.errors import DumpError
from tasks.logs import FaultFilter, SaidOnce, configure_logging, keep_fault, sentence_for
from tests.builders.disks import unprivileged
from tests.builders.world import make_instance, world_uid, write_instance
from tests.conftest import REPOSITORY

CANARY = "SYNCANARY^PATIENT"


def _raise() -> None:
    try:
        {}[CANARY]
    except KeyError as inner:
        inner.add_note(CANARY)
        raise ValueError(f"no such value: {CANARY}") from inner


def _raise_expected() -> None:
    raise DumpError(path="/dump", problem="does not exist")


@pytest.fixture
def framework() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """Give a logger as Luigi has it, with the filter on, and what came out of it."""
    logger = logging.Logger("framework")  # noqa: LOG001 - one of its own for each test
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger.addHandler(handler)
    logger.addFilter(FaultFilter())
    yield logger, out
    handler.close()


def _log_in_every_way(logger: logging.Logger, fault: BaseException) -> Iterator[Callable[[], None]]:
    """Log a fault, while it is being handled, as frameworks do."""
    written = "".join(traceback.format_exception(fault))
    yield lambda: logger.exception("it failed")  # noqa: LOG004 - called while the fault is being handled
    yield lambda: logger.error("it failed", exc_info=True)  # noqa: LOG014 - likewise
    yield lambda: logger.warning("task %s failed", "SortStudy", exc_info=fault)
    yield lambda: logger.warning("it failed", exc_info=(type(fault), fault, fault.__traceback__))
    yield lambda: logger.error(fault)
    yield lambda: logger.error("it failed: %s", fault)
    yield lambda: logger.error("%s failed: %r", "it", fault)
    yield lambda: logger.warning(f"Will not run it due to an error in deps():\n{written}")  # noqa: G004 - as Luigi does
    yield lambda: logger.warning("Will not run it due to an error in deps():\n%s", written)


def test_no_word_of_an_unexpected_fault_comes_out(framework: tuple[logging.Logger, io.StringIO]) -> None:
    logger, out = framework
    try:
        _raise()
    except ValueError as fault:
        for number, log in enumerate(_log_in_every_way(logger, fault), 1):
            log()
            said = out.getvalue()
            assert CANARY not in said, number
            assert "Traceback" not in said, number
            assert said.count("ValueError in test_logs.py, line") == number


def test_a_sentence_is_said_once_by_all_processes_together() -> None:
    """As Luigi's workers do, which are forked and run beside each other."""
    out = io.StringIO()
    logger = logging.Logger("framework")  # noqa: LOG001 - one of its own
    handler = logging.StreamHandler(out)
    logger.addHandler(handler)
    logger.addFilter(FaultFilter(SaidOnce()))
    said = DumpError(path="/dump", problem="does not exist")
    child = os.fork()
    if child == 0:
        logger.error(said)
        os._exit(0 if "/dump" in out.getvalue() else 1)
    assert os.waitpid(child, 0)[1] == 0
    for fault in (said, DumpError(path="/other", problem="does not exist"), said):
        logger.error(fault)
        logger.error("another line")
    assert "/dump" not in out.getvalue(), "the other process said it"
    assert out.getvalue().count("/other") == 1
    assert out.getvalue().count("another line") == 3, "what is no fault may be said again"


def test_written_traceback_without_its_fault_is_left_out_as_well(framework: tuple[logging.Logger, io.StringIO]) -> None:
    logger, out = framework
    try:
        _raise()
    except ValueError:
        written = traceback.format_exc()
    logger.warning(written)
    logger.warning("worker said: %s", written)
    assert CANARY not in out.getvalue()
    assert out.getvalue().count("See the log in identified/logs.") == 2


def test_expected_fault_says_its_sentence(framework: tuple[logging.Logger, io.StringIO]) -> None:
    logger, out = framework
    try:
        _raise_expected()
    except DumpError as fault:
        for log in _log_in_every_way(logger, fault):
            log()
    assert out.getvalue().count("The dump folder /dump does not exist.") == 9
    assert "Traceback" not in out.getvalue()


def test_ordinary_messages_pass_unchanged(framework: tuple[logging.Logger, io.StringIO]) -> None:
    logger, out = framework
    logger.info("%d of %s", 3, "7")
    logger.warning("100 % done")
    logger.warning("%(a)s", {"a": "mapped"})
    assert out.getvalue() == "INFO: 3 of 7\nWARNING: 100 % done\nWARNING: mapped\n"


def test_debug_shows_everything(framework: tuple[logging.Logger, io.StringIO], monkeypatch: pytest.MonkeyPatch) -> None:
    logger, out = framework
    monkeypatch.setattr(FaultFilter, "debug", True)
    try:
        _raise()
    except ValueError:
        logger.exception("it failed")
    assert CANARY in out.getvalue()


def test_sentence_quotes_nobody() -> None:
    try:
        _raise()
    except ValueError as fault:
        sentence = sentence_for(fault)
    assert CANARY not in sentence
    assert "ValueError in test_logs.py, line" in sentence
    assert "KeyError" in sentence_for(KeyError(CANARY))


def test_whole_fault_is_kept_where_patients_may_be_read(tmp_path: Path) -> None:
    for _ in range(2):
        try:
            _raise()
        except ValueError as fault:
            keep_fault(tmp_path, fault)
    log = tmp_path / "faults.log"
    assert log.read_text("utf-8").count(f"ValueError: no such value: {CANARY}") == 2
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_fault_that_cannot_be_kept_does_not_hide_itself() -> None:
    with unprivileged() as folder:
        folder.chmod(0o500)
        keep_fault(folder, ValueError(CANARY))
        keep_fault(folder / "none", ValueError("\ud800"))
        assert os.listdir(folder) == []
        folder.chmod(0o700)


NOISY = """
import logging, os, sys
logging.basicConfig(level=logging.WARNING)
from tasks.logs import configure_logging
from tasks.index.header import read_header
if sys.argv[2] == "configured":
    configure_logging()
print(type(read_header(os.fsencode(sys.argv[1]), b"file")).__name__)
"""


def test_pydicoms_warnings_stay_inside(tmp_path: Path) -> None:
    """It logs values it finds wrong; a site whose own logging listens to everything must not see them."""
    path = write_instance(tmp_path / "file", make_instance(SOPInstanceUID=None))
    # The UID of the meta information, which the slow path asks pydicom for, becomes a name.
    path.write_bytes(path.read_bytes().replace(world_uid(0).encode(), CANARY.encode().ljust(len(world_uid(0)))))

    def run(mode: str) -> str:
        command = [sys.executable, "-c", NOISY, str(tmp_path), mode]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
        return done.stdout + done.stderr

    assert CANARY in run("plain"), "pydicom no longer quotes it: this test proves nothing and needs another value"
    assert run("configured").strip() == "IndexRow"


def test_logging_is_set_up_once() -> None:
    logger = logging.getLogger("scanward")
    configure_logging()
    before = list(logger.handlers)
    configure_logging()
    assert logger.handlers == before
    assert before
    assert not logger.propagate
