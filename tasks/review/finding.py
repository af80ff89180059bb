"""What can be said about a series, an image or a manifest: one code, one plain sentence, and how grave it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

NOTE = "note"
"""Worth knowing, and ordinary: a localizer has several orientations, a computed tomography may be tilted."""

FAULT = "fault"
"""Something is missing, doubled, damaged or changed: somebody should look."""

CODES: dict[str, tuple[str, str]] = {
    # Where the planes lie.
    "gap": (FAULT, "slices are missing between two neighbours"),
    "double-position": (FAULT, "two images claim one place, and nothing says that they belong to different volumes"),
    "incomplete-volume": (FAULT, "a volume of a series with several lacks slices, and is left out"),
    "uneven-spacing": (FAULT, "the slices are not equally far apart"),
    "not-in-line": (FAULT, "the slices are shifted sideways against each other"),
    "orientation-invalid": (FAULT, "the direction cosines are not two perpendicular unit vectors"),
    "mosaic-unresolved": (FAULT, "a mosaic cannot be cut into its slices"),
    "tilted": (NOTE, "the slices are stacked obliquely, as with a tilted gantry"),
    "orientations-differ": (NOTE, "the planes lie in several orientations, as in a localizer"),
    "sizes-differ": (NOTE, "the images have different numbers of rows or columns"),
    "pixel-spacing-differs": (NOTE, "the images have different pixel spacings"),
    "orientation-missing": (NOTE, "the orientation is not stated"),
    "positions-missing": (NOTE, "the positions are not stated"),
    "spacing-missing": (NOTE, "the pixel spacing is not stated, so pixels are taken as square"),
    "spacing-differs": (NOTE, "the measured slice spacing is not the stated one"),
    "assumed-spacing": (NOTE, "the slice spacing was taken from the slice thickness"),
    "assumed-mosaic": (NOTE, "the slice order of a mosaic was assumed"),
    "volumes-by-number": (NOTE, "only the instance numbers tell repeated volumes apart"),
    "incomplete-series": (FAULT, "files of the series are missing, or have not arrived yet"),
    # What the pixels are.
    "not-dicom": (FAULT, "the file cannot be read as DICOM"),
    "no-pixels": (FAULT, "the instance holds no pixel data"),
    "codec-missing": (FAULT, "the pixel data is compressed and its decoder is not installed"),
    "truncated-pixels": (FAULT, "the pixel data ends too early"),
    "undecodable-pixels": (FAULT, "the pixel data cannot be decoded"),
    "unsupported-pixels": (FAULT, "the pixel data is described in a way that is not understood"),
    "series-empty": (FAULT, "the series holds no instance"),
    # What became of it.
    "not-converted": (FAULT, "no image came out of the conversion"),
    "half-converted": (FAULT, "only a part of the series came out of the conversion"),
    "conversion-warning": (NOTE, "the converter warned of something"),
    # What was measured.
    "protocol-differs": (FAULT, "the series was not acquired as the study wants it"),
    "clipped": (FAULT, "bright voxels were cut off at a greatest value"),
    "constant-image": (FAULT, "every voxel has the same value"),
    "dropped-volume": (FAULT, "a volume has hardly any signal"),
    "dropped-slice": (FAULT, "a slice of one volume has hardly any signal"),
    "spike": (FAULT, "a slice of one volume jumps against the volumes before and behind"),
    "double-volume": (FAULT, "a volume is the same as the one before"),
    "signal-dropout": (FAULT, "a diffusion-weighted slice has lost signal within its shell"),
    "gradients-differ": (FAULT, "b-values and directions do not fit the volumes"),
    "direction-invalid": (FAULT, "a weighted volume has no direction of length 1"),
    "direction-repeated": (NOTE, "a direction comes twice in a shell"),
    "unsteady-volumes": (NOTE, "the first volumes are not in the steady state"),
    # What a manifest promises.
    "instance-missing": (FAULT, "a listed instance is not there"),
    "size-differs": (FAULT, "a listed instance has another size"),
    "digest-differs": (FAULT, "a listed instance has another content"),
    "unreadable": (FAULT, "a listed file cannot be opened"),
    "geometry-differs": (FAULT, "the instances no longer give the geometry in the manifest"),
    "image-missing": (FAULT, "a listed image, or a file beside it, is not there"),
    "image-differs": (FAULT, "a listed image has another content"),
    "picture-missing": (FAULT, "a listed picture is not there"),
    "picture-damaged": (FAULT, "a listed picture is not a whole PNG file"),
    "not-listed": (FAULT, "a file lies in the export that the manifest does not list"),
    "export-missing": (FAULT, "the export folder is not there"),
}
"""Every code, with its gravity and its meaning; the README's table is printed from here."""

_FILES_NAMED = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was found.

    Attributes
    ----------
    code
        A key of `CODES`.
    text
        One sentence. It holds counts, distances in millimetres and file names of the export; never a header's text.
    files
        The files it is about, by name, at most the first eight.
    """

    code: str
    text: str
    files: tuple[str, ...] = ()

    @property
    def is_fault(self) -> bool:
        """True if somebody should look; False for a note."""
        return CODES[self.code][0] == FAULT

    def to_json(self) -> dict[str, Any]:
        """Return plain data for a JSON file."""
        return {"code": self.code, "text": self.text, "files": list(self.files)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Finding:
        """Rebuild from `to_json`.

        Raises
        ------
        KeyError, TypeError, ValueError
            If a field is missing, of another type, or the code is unknown.
        """
        code, text, files = content["code"], content["text"], content["files"]
        if code not in CODES:
            raise ValueError("an unknown finding code")
        if not isinstance(text, str) or not all(isinstance(name, str) for name in files):
            raise TypeError("a finding is text and a list of names")
        return cls(code=code, text=text, files=tuple(files))


def finding(code: str, text: str, files: Iterable[str] = ()) -> Finding:
    """Make a finding, naming each file once and only the first few."""
    return Finding(code=code, text=text, files=tuple(dict.fromkeys(files))[:_FILES_NAMED])


def counted(number: int, noun: str) -> str:
    """Write a number with its noun: `1 slice`, `3 slices`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
