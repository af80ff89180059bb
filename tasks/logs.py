"""What is said while work goes on; of a fault one sentence outside, the whole of it in `identified/`."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import multiprocessing
import os
import re
import sys
import traceback
from pathlib import Path
from typing import ClassVar

from tasks.errors import ScanwardError

LOGGER = logging.getLogger("scanward")
"""The one logger; what goes through it may be read by anybody, so it never carries a value read from an image."""


def configure_logging() -> None:
    """Send plain lines to standard error, once, and nothing of what pydicom logs: its warnings quote header values."""
    logging.getLogger("pydicom").propagate = False
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
    for kind, sentence in FaultFilter.sentences.items():
        if isinstance(fault, kind):
            return sentence
    return f"An unexpected fault ({_place_of(fault)}) stopped the work. See the log in identified/logs."


def _place_of(fault: BaseException) -> str:
    frames = traceback.extract_tb(fault.__traceback__)
    place = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    return f"{type(fault).__name__}{place}"


def keep_fault(folder: Path, fault: BaseException) -> None:
    """Append a fault, traceback and all, to the log that stays in `identified/`, if that can be written."""
    text = "".join(traceback.format_exception(fault)) + "\n"
    # The fault may be that the disk is full, and then no other may take its place.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder / "faults.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, text.encode("utf-8", "backslashreplace"))
        finally:
            os.close(descriptor)


class SaidOnce:
    """Remembers sentences, in all processes that are forked after it was made."""

    def __init__(self) -> None:
        self._marks = multiprocessing.Array("Q", 64)

    def is_new(self, sentence: str) -> bool:
        """Tell whether a sentence was not said yet, and take it for said; when there are too many, all are new."""
        mark = int.from_bytes(hashlib.blake2b(sentence.encode("utf-8", "replace"), digest_size=8).digest(), "big") | 1
        with self._marks.get_lock():
            known = list(self._marks.get_obj())
            if mark in known:
                return False
            if 0 in known:
                self._marks[known.index(0)] = mark
        return True


_PASSWORD = re.compile(r"//[^/@\s]+@")
"""A user's name and password in an address."""
_TRACEBACK = "Traceback (most recent call last)"


class FaultFilter(logging.Filter):
    """Replaces the faults and tracebacks that a framework logs by one sentence each, unless `debug` is set.

    It finds them where `logging` keeps a fault, among a message's arguments, and written out in its text.

    Parameters
    ----------
    said
        If given, a sentence is said once, though a hundred tasks that run beside each other meet the same full disk.

    Attributes
    ----------
    debug
        Let everything pass as it is.
    own_words
        Kinds of faults that speak of the command line alone, so that their own words may be shown.
    sentences
        What is said for kinds of faults that are the framework's and no surprise.
    """

    debug = False
    own_words: tuple[type[BaseException], ...] = ()
    sentences: ClassVar[dict[type[BaseException], str]] = {}

    def __init__(self, said: SaidOnce | None = None) -> None:
        super().__init__()
        self._said = said

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record in place; let it pass unless it would say again what was said."""
        if isinstance(record.msg, str) and "@" in record.getMessage():
            record.msg, record.args = _PASSWORD.sub("//...@", record.getMessage()), ()
        if self.debug:
            return True
        fault = record.exc_info[1] if record.exc_info else None
        if fault is None and isinstance(record.msg, BaseException):
            fault = record.msg
        if fault is not None or _TRACEBACK in str(record.msg):
            # A written-out traceback is logged while its fault is being handled, or nobody knows of which it was.
            record.msg = self._tell(str(record.msg), fault or sys.exc_info()[1] or Exception())
            record.args = ()
            record.exc_info = None
            record.exc_text = None
            return self._said is None or self._said.is_new(record.msg)
        if isinstance(record.args, tuple):
            record.args = tuple(map(_without_fault, record.args))
        return True

    def _tell(self, message: str, fault: BaseException) -> str:
        if isinstance(fault, self.own_words):
            return " ".join(str(fault).split())
        known = isinstance(fault, (ScanwardError, *self.sentences))
        if message.startswith("Uncaught exception") and not known:
            # Outside any task, so that no log was kept.
            return f"Luigi stopped ({_place_of(fault)}). Look at the words of the command; --debug shows more."
        return sentence_for(fault)


def _without_fault(argument: object) -> object:
    if isinstance(argument, BaseException):
        return sentence_for(argument)
    if isinstance(argument, str) and _TRACEBACK in argument:
        return sentence_for(sys.exc_info()[1] or Exception())
    return argument
