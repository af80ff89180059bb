"""How a study wants its images to be read: the scale, the artefacts, and what keeps readers honest."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.errors import ManifestError
from tasks.files import write_json

PROTOCOL = "reading.json"
"""The file beside the manifest that holds it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """One step of the scale.

    Attributes
    ----------
    name
        As it stands in the ratings and in the export, such as "accept".
    key
        The key that gives it, as Qt names keys: "1", "A", "F2".
    meaning
        What a reader is to understand by it.
    """

    name: str
    key: str
    meaning: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingProtocol:
    """What every verdict of a study is given under; another digest is another protocol.

    Attributes
    ----------
    scale
        From best to worst; the order is that of an ordinal scale.
    artefacts
        What a reader may tick beside the verdict; `Grade.key` toggles it.
    hides_quality
        True if metrics and flags are hidden until the verdict is given.
    is_blinded
        True if codes stand for subjects, visits and series on screen.
    seed
        Decides the order of every reader, the codes and the repeats; None for the manifest's own order.
    repeat_share
        What share of the cases each reader gets twice without being told, 0 to 1.
    minimum_look_s
        A verdict given sooner, in seconds, is refused.
    idle_after_s
        So many seconds after the last key or movement no more time is counted.
    readers
        How many readers each case needs before it is compared, 1 or 2; with 2, cases on which they differ come to an
        adjudicator.
    """

    scale: tuple[Grade, ...] = (
        Grade(name="accept", key="1", meaning="good enough for what the study wants to measure"),
        Grade(name="query", key="2", meaning="somebody else should look at it"),
        Grade(name="reject", key="3", meaning="not to be used"),
    )
    artefacts: tuple[Grade, ...] = (
        Grade(name="motion", key="F5", meaning="blurring or rings from movement"),
        Grade(name="ghost", key="F6", meaning="a second head along the phase direction"),
        Grade(name="wrap", key="F7", meaning="parts folded in from outside the field of view"),
        Grade(name="dropout", key="F8", meaning="signal lost beside air or metal"),
        Grade(name="coverage", key="F9", meaning="parts of the brain are outside the image"),
        Grade(name="other", key="F10", meaning="something else; a note says what"),
    )
    hides_quality: bool = True
    is_blinded: bool = False
    seed: int | None = None
    repeat_share: float = 0.0
    minimum_look_s: float = 0.0
    idle_after_s: float = 60.0
    readers: int = 1

    def to_json(self) -> dict[str, Any]:
        """Return plain data for a JSON file."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Any) -> ReadingProtocol:
        """Rebuild from `to_json`.

        Raises
        ------
        KeyError, TypeError, ValueError
            If a field is missing or not what it must be.
        """
        fields = dict(content)
        for name in ("scale", "artefacts"):
            fields[name] = tuple(
                Grade(**{part: str(one[part]) for part in ("name", "key", "meaning")}) for one in fields[name]
            )
        return cls(**{name: fields[name] for name in cls.__dataclass_fields__})

    @property
    def digest(self) -> str:
        """SHA-256 over everything in it, 64 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode("utf-8")).hexdigest()


def write_protocol(review: Path, protocol: ReadingProtocol) -> None:
    """Write the protocol beside the manifest.

    Raises
    ------
    DiskFullError, WorkspaceError
        If the file system refuses.
    """
    write_json(review / PROTOCOL, protocol.to_json())


def read_protocol(review: Path) -> ReadingProtocol:
    """Read the protocol from beside the manifest; the usual one if there is none.

    Raises
    ------
    ManifestError
        If the file cannot be read, or is not what it must be.
    """
    path = review / PROTOCOL
    try:
        return ReadingProtocol.from_json(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return ReadingProtocol()
    except OSError as fault:
        raise ManifestError(path=path, problem=f"it cannot be opened ({fault.strerror})") from None
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ManifestError(path=path, problem="it is no reading protocol of this version") from None
