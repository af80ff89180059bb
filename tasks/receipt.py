"""The proof that a stage finished: written last, atomically, and believed only if it reads as it was written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tasks.files import write_atomically

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What a stage did.

    Attributes
    ----------
    stage
        The stage's name.
    software
        The version of scanward that did it.
    input_digest
        Digest of everything the stage worked on.
    settings_digest
        Digest of the settings that matter to this stage.
    output_digest
        Digest of what it made.
    counts
        What came in, what was done, what was set aside.
    lists
        Where the lists stand: name to path, relative to the workspace.
    finished
        When, in ISO 8601 with its offset.
    facts
        What a later stage needs to know of this one.
    """

    stage: str
    software: str
    input_digest: str
    settings_digest: str
    output_digest: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    lists: Mapping[str, str] = field(default_factory=dict)
    finished: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


def write_receipt(folder: Path, receipt: Receipt) -> None:
    """Write the stage's receipt, in place of the one before."""
    content = {"format": FORMAT_VERSION, **asdict(receipt)}
    content["seal"] = digest_of(content)
    # Not sorted: the counts stand in the order in which they are told.
    text = json.dumps(content, indent=1)
    write_atomically(folder / f"{receipt.stage}.json", text.encode("ascii") + b"\n", mode=0o600)


def read_receipt(folder: Path, stage: str) -> Receipt | None:
    """Read a stage's receipt; a missing, damaged or altered one is no receipt."""
    try:
        content = json.loads((folder / f"{stage}.json").read_bytes())
        seal = content.pop("seal")
        if seal != digest_of(content) or content.pop("format") != FORMAT_VERSION:
            return None
        return Receipt(**content)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def remove_receipt(folder: Path, stage: str) -> None:
    """Take back the proof that a stage finished."""
    (folder / f"{stage}.json").unlink(missing_ok=True)


def digest_of(content: Any) -> str:
    """Name anything that JSON can hold by the SHA-256 of its canonical form."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode("ascii")).hexdigest()
