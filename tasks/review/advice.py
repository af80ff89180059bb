"""What was measured of every case, and what stands out: `review/quality.json`, apart from the manifest and the images.

A reviewer who sees a flag before the image sees the image through it. So the manifest holds nothing of this but the
name of the file, and a program that shows cases need not open it before a verdict is given.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tasks
from tasks.errors import ManifestError
from tasks.files import write_json
from tasks.review.flag import FEWEST, THRESHOLD, Flag
from tasks.review.quality.measure import Quality

FORMAT = "scanward-review-quality"
"""What the file calls itself."""

VERSION = 1
"""The only version this module reads and writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageAdvice:
    """What is known of one image beside the image.

    Attributes
    ----------
    path
        As in the manifest's `images`.
    scanner, sequence
        With which others it was compared.
    quality
        Metrics, checks and courses over time.
    flags
        What stands out.
    """

    path: str
    scanner: str
    sequence: str
    quality: Quality
    flags: tuple[Flag, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain data for a JSON file."""
        return {
            "path": self.path,
            "scanner": self.scanner,
            "sequence": self.sequence,
            "quality": self.quality.to_json(),
            "flags": [flag.to_json() for flag in self.flags],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ImageAdvice:
        """Rebuild from `to_json`.

        Raises
        ------
        KeyError, TypeError, ValueError
            If a field is missing or not what it must be.
        """
        return cls(
            path=str(content["path"]),
            scanner=str(content["scanner"]),
            sequence=str(content["sequence"]),
            quality=Quality.from_json(content["quality"]),
            flags=tuple(Flag.from_json(flag) for flag in content["flags"]),
        )


def write_advice(path: Path, entries: Mapping[str, tuple[ImageAdvice, ...]]) -> None:
    """Write what is known of the images of each entry, by entry id; equal content gives equal bytes.

    Raises
    ------
    DiskFullError, WorkspaceError
        If the file system refuses.
    """
    content = {
        "format": FORMAT,
        "version": VERSION,
        "software": tasks.__version__,
        # So that nobody has to look up what a flag means.
        "flagged_from": {"modified_z_score": THRESHOLD, "images": FEWEST},
        "entries": {entry_id: [image.to_json() for image in images] for entry_id, images in entries.items()},
    }
    write_json(path, content)


def read_advice(path: Path) -> dict[str, tuple[ImageAdvice, ...]]:
    """Read what `write_advice` wrote.

    Raises
    ------
    ManifestError
        If it is not there, is no JSON, is of another format or version, or lacks a field.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as fault:
        raise ManifestError(path=path, problem=f"it cannot be opened ({fault.strerror})") from None
    except (ValueError, RecursionError):
        raise ManifestError(path=path, problem="it is not JSON, or only a part of it") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("version") != VERSION:
        raise ManifestError(path=path, problem=f"it does not hold the quality of images, version {VERSION}")
    try:
        return {
            entry_id: tuple(ImageAdvice.from_json(image) for image in images)
            for entry_id, images in content["entries"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ManifestError(path=path, problem="a field is missing or not what it must be") from None
