"""Ask a PACS or a scanner over DICOM whether it hears us: C-ECHO, and if wanted a C-FIND that matches nothing.

PS3.8 section 7.1 (association), PS3.7 section 9.1.5 (C-ECHO), PS3.4 annex C (query).
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any, Final

VERDICTS: Final = {
    "ok": "answers to C-ECHO",
    "name-unknown": "its name cannot be resolved there",
    "no-route": "the network has no way to it from there",
    "timeout": "the connection to it gets no answer",
    "refused": "nothing listens on its port",
    "no-answer": "something listens, but does not answer as DICOM does",
    "rejected": "it refuses the association",
    "aborted": "it breaks the association off",
    "bad-status": "it answers C-ECHO with a fault",
    "find-refused": "it answers C-ECHO, but refuses queries",
    "port-open": "its port is open; whether it speaks DICOM could not be verified",
    "forward-prohibited": "the machine forwards no connections, and has no tool to ask with",
    "unknown": "it could not be asked, because the machine could not be reached",
}
"""What is found of a target, seen from the machine beside it."""

NOBODY: Final = "SCANWARD-NOBODY"
"""The patient ID that a query asks for, so that it matches nothing."""

_STEP_S = 10.0
_REJECTED_BY = {1: "its user", 2: "its ACSE provider", 3: "its presentation provider"}
_REASONS = {
    (1, 1): "no reason given",
    (1, 2): "application context not supported",
    (1, 3): "calling AE title not recognized",
    (1, 7): "called AE title not recognized",
    (2, 1): "no reason given",
    (2, 2): "protocol version not supported",
    (3, 1): "temporary congestion",
    (3, 2): "local limit exceeded",
}
# PS3.8, table 9-21.


@dataclass(frozen=True, slots=True, kw_only=True)
class Echo:
    """What a target answered.

    Attributes
    ----------
    verdict
        A key of `VERDICTS`.
    detail
        Of a refusal its source and reason, of a status its number; by our own words, never by the other side's.
    may_pass
        True if the fault is one that passes by itself, such as a target that takes one association at a time.
    latency_s
        Seconds from asking for the association to the answer to C-ECHO; None without an answer.
    version
        What the target says it is: implementation class UID and version name; written by the other side.
    """

    verdict: str
    detail: str = ""
    may_pass: bool = False
    latency_s: float | None = None
    version: str = ""


def echo(host: str, port: int, *, called: str, calling: str, with_find: bool = False, step_s: float = _STEP_S) -> Echo:
    """Ask a target through a connection that is made here; to ask from elsewhere, forward the port.

    Parameters
    ----------
    host, port
        Where to connect to.
    called, calling
        The target's AE title and ours; up to 16 characters.
    with_find
        Whether to send a study-root C-FIND for a patient that there is not, too: some answer C-ECHO to anybody.
    step_s
        Seconds for each of: connecting, the association, each answer.
    """
    from pynetdicom import AE, evt  # noqa: PLC0415 - half a second to load
    from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # noqa: PLC0415 - made when it is loaded
        StudyRootQueryRetrieveInformationModelFind,
        Verification,
    )

    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)
    entity = AE(ae_title=calling)
    entity.connection_timeout = entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = step_s
    entity.add_requested_context(Verification)
    if with_find:
        entity.add_requested_context(StudyRootQueryRetrieveInformationModelFind)
    heard: list[str] = []
    begun = time.monotonic()
    # Where the peer hangs up first pynetdicom leaves its socket to the garbage collector.
    opened: list[Any] = []
    handlers: Any = [
        (evt.EVT_PDU_RECV, lambda event: heard.append(type(event.pdu).__name__)),
        (evt.EVT_CONN_OPEN, lambda event: opened.append(event.assoc.dul.socket.socket)),
    ]
    association = entity.associate(host, port, ae_title=called, evt_handlers=handlers)
    try:
        if not association.is_established:
            return _not_established(association, heard)
        version = _version(association)
        answer = association.send_c_echo()
        latency = time.monotonic() - begun
        if "Status" not in answer:
            verdict = "aborted" if "A_ABORT_RQ" in heard else "no-answer"
            return Echo(verdict=verdict, version=version)
        if answer.Status != 0:
            return Echo(verdict="bad-status", detail=f"0x{answer.Status:04X}", latency_s=latency, version=version)
        if with_find:
            refusal = _find(association, StudyRootQueryRetrieveInformationModelFind)
            if refusal:
                return Echo(verdict="find-refused", detail=refusal, latency_s=latency, version=version)
        return Echo(verdict="ok", latency_s=latency, version=version)
    finally:
        if association.is_established:
            association.release()
        if association.is_alive():
            association.abort()
        entity.shutdown()
        for sock in opened:
            sock.close()


def _not_established(association: Any, heard: list[str]) -> Echo:
    if association.is_rejected:
        answer = association.acceptor.primitive
        source, reason = int(answer.result_source or 0), int(answer.diagnostic or 0)
        words = _REASONS.get((source, reason), f"reason {reason}")
        # Result 2 is "rejected (transient)"; PS3.8, section 9.3.4.
        may_pass = int(answer.result or 0) == 2 or source == 3
        return Echo(verdict="rejected", detail=f"{words}, by {_REJECTED_BY.get(source, 'it')}", may_pass=may_pass)
    if "A_ABORT_RQ" in heard:
        return Echo(verdict="aborted", may_pass=True)
    if "A_ASSOCIATE_AC" in heard:
        return Echo(verdict="rejected", detail="it does not offer verification")
    return Echo(verdict="no-answer", may_pass=True)


def _find(association: Any, model: str) -> str:
    """Ask for nobody; return why that was refused, or nothing."""
    from pydicom import Dataset  # noqa: PLC0415

    query = Dataset()
    query.QueryRetrieveLevel, query.PatientID, query.StudyInstanceUID = "STUDY", NOBODY, ""
    try:
        statuses = [status for status, _ in association.send_c_find(query, model)]
    except ValueError:
        return "it does not offer the study root model"
    last = statuses[-1] if statuses else Dataset()
    if "Status" not in last:
        return "no answer"
    return "" if last.Status == 0 else f"0x{last.Status:04X}"


def _version(association: Any) -> str:
    acceptor = association.acceptor
    name = acceptor.implementation_version_name or ""
    name = name.decode("ascii", "replace") if isinstance(name, bytes) else str(name)
    text = f"{acceptor.implementation_class_uid or ''} {name}".strip()
    return "".join(letter for letter in text if letter.isprintable())[:100]
