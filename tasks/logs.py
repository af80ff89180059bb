"""What is said while work goes on; of a fault one sentence outside, the whole of it in `identified/`."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from pathlib import Path
from types import TracebackType

from tasks.errors import ScanwardError

LOGGER = logging.getLogger("scanward")
"""The one logger; what goes through it may be read by anybody, so it never carries a value read from an image."""


def configure_logging() -> None:
    """Send plain lines to standard error, once."""
    if LOGGER.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False


def sentence_for(fault: BaseException) -> str:
    """Say what went wrong without quoting anything the fault may have picked up from a patient's file.

    An expected fault has its own sentence. Of any other only its type and the place in the code are told: its message
    may hold a header value.
    """
    if isinstance(fault, ScanwardError):
        return str(fault)
    frames = traceback.extract_tb(fault.__traceback__)
    place = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    return f"An unexpected fault ({type(fault).__name__}{place}) stopped the work. See the log in identified/logs."


def keep_fault(folder: Path, fault: BaseException) -> None:
    """Append a fault, traceback and all, to the log that stays in `identified/`."""
    text = "".join(traceback.format_exception(fault))
    try:
        descriptor = os.open(folder / "faults.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError:
        return
    with os.fdopen(descriptor, "a", encoding="utf-8", errors="backslashreplace") as log:
        log.write(text + "\n")


class FaultFilter(logging.Filter):
    """Replaces the tracebacks that a framework logs by one sentence each, unless `debug` is set."""

    debug = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record in place; always let it pass."""
        info: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None] | None
        info = record.exc_info
        if info and info[1] is not None and not self.debug:
            record.msg = sentence_for(info[1])
            record.args = ()
            record.exc_info = None
            record.exc_text = None
        return True
