"""Convert a series to NIfTI with dcm2niix, and say what became of it: all, a part, nothing, and of what it was warned.

dcm2niix runs as a node of nipype (`tasks.review.nodes`, loaded with the first series). What it prints quotes paths and
values of the header; it is read here and never handed on.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
import shutil
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tasks.errors import DamagedRecordError, MissingPackageError
from tasks.files import file_digest, make_folder, refusals_named, temporary_sibling, written_atomically
from tasks.review.finding import counted
from tasks.review.sidecar import read_sidecar

if TYPE_CHECKING:
    from tasks.review.nodes import Ended

CONVERSION_OUTCOMES: Mapping[str, str] = MappingProxyType(
    {
        "whole": "All files of the series went into images, or are copies of those that did.",
        "partial": "Only a part of the series came out; the images that there are are whole.",
        "nothing": "The series holds no image that the converter knows.",
        "failed": "The converter did not come to an end that can be trusted; nothing is kept of what it made.",
    }
)
"""What can become of a series: code to sentence."""

WARNINGS: Mapping[str, str] = MappingProxyType(
    {
        "duplicates": "Images with the same moment, acquisition and number were taken for copies and left out.",
        "images-missing": "Slices or volumes seem to be missing.",
        "slices-uneven": "The distance between slices varies.",
        "not-stacked": "Images of the series were kept apart because their size, echo, coil or orientation differ.",
        "stacked": "Images were put into one although their moment, coil or series number differ.",
        "order": "Numbers, moments and places of the images tell different orders.",
        "number-missing": "Images have no instance number, so that their order is not stated.",
        "orientation": "The orientation cannot be told, or is doubtful.",
        "position-missing": "How the patient lay is not stated.",
        "manufacturer-missing": "The manufacturer is not stated, so that nothing of its own was read.",
        "protocol-missing": "The protocol has no name.",
        "slice-timing": "When the slices were taken is unknown or doubtful.",
        "repetition-time": "The stated repetition time is not the measured one, or varies.",
        "diffusion": "The directions or strengths of diffusion encoding are missing or doubtful.",
        "derived-volume": "A volume that was computed from the others was taken out of the series.",
        "scaling": "The scale of the values varies, or is doubtful.",
        "gantry-tilt": "The gantry was tilted.",
        "mosaic": "How many slices a mosaic holds was guessed.",
        "pixels": "Pixel data could not be decoded, or is stored in an unusual way.",
        "enhanced": "The form in which the scanner exported the images lacks what another form of it holds.",
        "anonymized": "A program that removes identities has taken away more than those.",
        "not-standard": "The files are not as the DICOM standard demands.",
        "experimental": "The converter says that images of this kind are little tested.",
        "recording": "A recording of pulse or breathing could not be read.",
        "other": "The converter warned of something else.",
    }
)
"""What the converter can be heard to warn of: code to sentence."""

_PHRASES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "duplicates": ("images have identical time",),
        "not-stacked": ("slices not stacked",),
        "stacked": ("stacked despite",),
        "recording": ("physio", "cmrr", "xa stream"),
        "images-missing": (
            *("missing images", "may be missing", "partial volume", "missing dicoms", "spatial position repeats"),
            *("divisible by number of repeats", "differs from protocol block"),
        ),
        "slices-uneven": ("interslice distance", "inter-slice distance", "slice distances", "equidistant"),
        "number-missing": ("instance number (0020,0013) not found",),
        "order": (
            *("order is not spatial", "not sorted in ascending", "different order", "sorted order"),
            *("volume number does not", "reordering", "re-ordered", "referencedframenumber"),
        ),
        "slice-timing": (
            *("slice timing", "slicetiming", "slice times", "slice order", "issue797", "issue870", "midnight", "rtia"),
            *("mosaicrefacqtimes", "saved in reverse order", "protocol data block", "protocolslicenumber"),
        ),
        "repetition-time": ("repetition time", "seconds between volumes", "assuming tr", "measured tr"),
        "derived-volume": ("adc or trace", "derived image", "derived diffusion image"),
        "diffusion": ("bvec", "bval", "b-vector", "b-value", "dti", "dwi", "diffusion", "gradients", " b0 ", "b=0"),
        "gantry-tilt": ("tilt",),
        "anonymized": ("dicomanon", "anonymizer", "privatecreator"),
        "enhanced": ("enhanced", "exported as classic", "xa10 mosaics"),
        "pixels": (
            *("compressed image", "decompress", "transfer syntax", "decode", "charls", "rle ", "bit-depth", "corrupt"),
            *("overlay", "only loaded", "filesize <", "not large enough", "allocate 1 bits", "file too small"),
        ),
        "scaling": ("slope", "scaling", "uint16", "16-bit"),
        "mosaic": ("mosaic",),
        "position-missing": ("patient position (0018,5100) not specified",),
        "orientation": (
            *("orientation", "slice direction", "spatial matrix", "single slice", "flipped", "mirrored"),
            *("upside down", "unable to rotate", "segami"),
        ),
        "manufacturer-missing": ("unable to determine manufacturer",),
        "protocol-missing": ("empty protocol name",),
        "not-standard": ("illegal", "violat", "not archival", "does not make sense", "preamble"),
        "experimental": ("experimental", "untested", "limited validation", "please provide", "please report"),
    }
)
"""What lines say, in lower case; the first code that has a phrase of a line counts."""

_HEARD = (
    *("images have identical time", "slices not stacked", "stacked despite", "adc or trace", "illegal dicom tag"),
    *("unable to ", "failed ", "unsupported ", "error: "),
)
"""How lines read that count although they do not begin with the word Warning."""

_PASSED_OVER = ("slice timing range appears reasonable", "error: converted ", "::autobids")

_FOUND = re.compile(r"^Found (\d+) DICOM file")
_CONVERTED = re.compile(r"^Convert (\d+) DICOM as ")
_COPIES = re.compile(r"^(\d+) images have identical time")
_LONGEST_LINE = 4096

_KIND = re.compile(
    r"(?P<kind>e\d+(?:\.\d+)?|phMag|ph|real|imaginary|fieldmaphz|noRF|MoCo|ADC|Eq|Tilt|ROI\d+|t\d+|mrsref|Crop)[a-z]*|"
    r"(?P<coil>c.*)|(?P<number>i?\d+[a-z]*)"
)
"""A part of a file name's ending (dcm2niix, FILENAMING.md); letters after it tell files apart that would have one name.
What follows a `c` is the name of a coil."""

_TEXTS = {
    348: ((14, 18), (148, 80), (228, 24), (328, 16)),  # NIfTI-1 (nifti1.h): db_name, descrip, aux_file, intent_name
    540: ((240, 80), (320, 24), (508, 16)),  # NIfTI-2 (nifti2.h): descrip, aux_file, intent_name
}
"""Place and length of the texts in a NIfTI header, by its size: the moment of the scan and comments stand there."""

_PIECE = 1 << 20
_LEVEL = 2
"""Of ISA-L: a hundredth larger than zlib's fastest, in a quarter of its time; 3 gains nothing on images."""

_GZIP = 31
"""What zlib calls a window of 32 kB with gzip's header; a compressor sets neither time nor name in it."""

_SECONDS = 60.0
_BYTES_A_SECOND = 2_000_000
"""How long a conversion may take: some hundred times what it takes, so that only one that hangs is ended."""

_UNPACKED = 4
"""How many times the size of a series, as a rule, its images may have: compressed ones come out unpacked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertedImage:
    """One image that came out of a series, and what lies beside it.

    Attributes
    ----------
    image
        NIfTI-1, not compressed; the texts of its header are empty.
    sidecar
        All that the converter tells, not to be released; read it with `read_sidecar`. None for maps and masks that it
        makes beside an image.
    bval, bvec
        Strength (s/mm2) and direction of diffusion encoding, as many as the image has volumes; both or none.
    kind
        What the image is beside the others of its series, parts joined by "-", empty for a plain one: "e2" (second
        echo), "ph", "phmag", "real", "imaginary", "fieldmaphz", "coil", "t178" (trigger delay in ms), "eq", "tilt",
        "adc", "moco", "roi1", "norf", "mrsref", "other". Several images may have the same.
    """

    image: Path
    sidecar: Path | None
    bval: Path | None
    bvec: Path | None
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What became of a series.

    Attributes
    ----------
    images
        Sorted by kind, then by acquisition; whatever order the files lay in.
    outcome
        A key of `CONVERSION_OUTCOMES`.
    exit_code
        What dcm2niix ended with; negative if a signal ended it; -1 as well if nipype stopped.
    warnings
        Keys of `WARNINGS`, in their order.
    reason
        A sentence that says why the outcome is not "whole", with counts and no names; else empty.
    """

    images: tuple[ConvertedImage, ...]
    outcome: str
    exit_code: int
    warnings: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeCourse:
    """A series of volumes, measured over time.

    Attributes
    ----------
    mean, sd, tsnr
        Images of the volumes' grid, not compressed. nipype writes them as the series' own type with a scale, so that
        integers carry 65,536 steps.
    unsteady
        How many volumes at the beginning are not in the steady state.
    """

    mean: Path
    sd: Path
    tsnr: Path
    unsteady: int


def convert_series(files: Sequence[Path], work: Path, *, program: Path | str, seconds: float = _SECONDS) -> Conversion:
    """Convert the DICOM files of one series.

    The current folder of the process is another while this runs. Nothing stays but the images: neither of nipype's
    files nor, if the outcome is "failed", of the converter's.

    Parameters
    ----------
    files
        The files, in an order that is the same each time.
    work
        A private folder (mode 0700) for the images; made if it is not there. Images of the same name are replaced.
    program
        dcm2niix.
    seconds
        What any conversion may take, on top of what its size allows.

    Raises
    ------
    MissingPackageError
        If nipype is not installed, or dcm2niix cannot be started.
    DiskFullError, WorkspaceError
        If there is no room: then nothing is said of the series.
    """
    with _nipype_needed("converting a series"):
        from tasks.review import nodes  # noqa: PLC0415 - a second to load, and only those who convert need it

    found = shutil.which(program)
    if found is None:
        raise MissingPackageError(purpose="Converting a series", package="dcm2niix", extra="conversion")
    size = _total_size(files)
    make_folder(work, mode=0o700)
    with _private_folder(work / "conversion") as folder, refusals_named(work):
        source, target, output = folder / "source", folder / "images", folder / "output"
        source.mkdir()
        target.mkdir()
        _link_numbered(files, source)
        try:
            ended = nodes.convert(
                program=os.path.abspath(found),
                source=source,
                target=target,
                folder=folder,
                output=output,
                seconds=seconds + size / _BYTES_A_SECOND,
            )
        except nodes.NodeError:
            ended = None
        except nodes.StartError as fault:
            raise MissingPackageError(purpose="Converting a series", package="dcm2niix", extra="conversion") from fault
        told = _listen(output)
        made = _collect(target)
        conversion = _judge(ended, told, made, files=len(files))
        if conversion.outcome != "whole":
            # The converter does not tell a full disk from a series it cannot read.
            with open(folder / "room", "wb") as stream:
                os.posix_fallocate(stream.fileno(), 0, _PIECE + _UNPACKED * size)
        return _moved(conversion, work)


def compress_image(image: Path, target: Path) -> None:
    """Compress a file with gzip, so that equal files give equal bytes: no name and no time in the header.

    What is written was unpacked again by another implementation and had the same digest. Different machines may choose
    different, equally good bytes.

    Raises
    ------
    MissingPackageError
        If isal is not installed.
    DamagedRecordError
        If it does not unpack to what it was; `target` is as it was before.
    DiskFullError, WorkspaceError
        If the file system refuses.
    """
    try:
        from isal import isal_zlib  # noqa: PLC0415 - only those who convert need it
    except ModuleNotFoundError as fault:
        raise MissingPackageError(purpose="Compressing an image", package="isal", extra="review") from fault
    packer, unpacker = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, _GZIP), zlib.decompressobj(_GZIP)
    before, after = hashlib.sha256(), hashlib.sha256()
    with open(image, "rb") as source, written_atomically(target) as stream:
        while piece := source.read(_PIECE):
            before.update(piece)
            packed = packer.compress(piece)
            stream.write(packed)
            after.update(unpacker.decompress(packed))
        packed = packer.flush()
        stream.write(packed)
        after.update(unpacker.decompress(packed))
        if not unpacker.eof or before.digest() != after.digest():
            raise DamagedRecordError(path=target, problem="it does not unpack to what was packed")


def time_course(image: Path, work: Path) -> TimeCourse:
    """Measure an image with four axes over time, by nipype's TSNR and NonSteadyStateDetector nodes.

    Parameters
    ----------
    image
        NIfTI; the last axis is time.
    work
        A private folder for the results `mean.nii`, `sd.nii` and `tsnr.nii`; made if it is not there.

    Raises
    ------
    MissingPackageError
        If nipype is not installed.
    ValueError
        If it has fewer axes, or cannot be read.
    """
    with _nipype_needed("measuring a series over time"):
        from tasks.review import nodes  # noqa: PLC0415 - a second to load

    make_folder(work, mode=0o700)
    with _private_folder(work / "course") as folder, refusals_named(work):
        try:
            *results, unsteady = nodes.time_course(Path(os.path.abspath(image)), folder)
        except nodes.NodeError:
            raise ValueError("the image cannot be measured over time") from None
        mean, sd, tsnr = (_moved_file(Path(result), work) for result in results)
    return TimeCourse(mean=mean, sd=sd, tsnr=tsnr, unsteady=unsteady)


@contextlib.contextmanager
def _nipype_needed(purpose: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as fault:
        package = (fault.name or "nipype").split(".")[0]
        raise MissingPackageError(purpose=purpose.capitalize(), package=package, extra="review") from fault


@contextlib.contextmanager
def _private_folder(path: Path) -> Iterator[Path]:
    """Offer a folder that only its owner can open and that a later run would sweep; take it away whatever happens."""
    folder = Path(os.path.abspath(temporary_sibling(path)))
    shutil.rmtree(folder, ignore_errors=True)
    try:
        make_folder(folder, mode=0o700)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _link_numbered(files: Iterable[Path], source: Path) -> None:
    """Link files into a folder under numbers, so that no name of the export is seen beyond it.

    Hard links cost a tenth of others, and hold no path; where there can be none, the next best is made.
    """
    folders: dict[str, str] = {}
    for number, file in enumerate(files):
        parent, name = os.path.split(os.path.abspath(file))
        if parent not in folders:
            folders[parent] = os.path.realpath(parent)
        path, link = f"{folders[parent]}/{name}", f"{source}/{number:07d}.dcm"
        if os.path.islink(path):
            path = os.path.realpath(path)
        for make in (os.link, os.symlink, shutil.copyfile):
            with contextlib.suppress(OSError):
                make(path, link)
                break


def _total_size(files: Iterable[Path]) -> int:
    total = 0
    for file in files:
        with contextlib.suppress(OSError):  # one that went away is not converted, and that will be told
            total += os.path.getsize(file)
    return total


# What it said --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """What the converter printed: files it knew, files that went into images, copies, warnings; -1 if not told."""

    found: int
    converted: int
    copies: int
    warnings: tuple[str, ...]


def _listen(output: Path) -> _Told:
    found, converted, copies = -1, 0, 0
    heard = set()
    with contextlib.suppress(FileNotFoundError), open(output, "rb") as stream:
        while line := stream.readline(_LONGEST_LINE):
            text = line.decode("utf-8", "replace").strip()
            if match := _FOUND.match(text):
                found = int(match[1])
            elif match := _CONVERTED.match(text):
                converted += int(match[1])
            else:
                if match := _COPIES.match(text):
                    copies += int(match[1])
                heard.add(_warning(text))
    return _Told(
        found=found, converted=converted, copies=copies, warnings=tuple(code for code in WARNINGS if code in heard)
    )


def _warning(line: str) -> str:
    """Return the code of a line, empty if it is no warning."""
    text = line.lower()
    warned = text.startswith("warning: ") or any(phrase in text for phrase in _HEARD)
    if not warned or any(phrase in text for phrase in _PASSED_OVER):
        return ""
    return next((code for code, phrases in _PHRASES.items() if any(phrase in text for phrase in phrases)), "other")


# What it made --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """What lies in the output folder: whole images, how many are cut off, sidecars and directions that are unusable."""

    images: tuple[ConvertedImage, ...]
    cut: int
    unreadable: int
    undirected: int


def _collect(target: Path) -> _Made:
    """List the images, by the files and not by what was printed; empty the texts of their headers."""
    images, orders = [], {}
    cut = unreadable = undirected = 0
    for path in sorted(target.glob("*.nii")):
        volumes = _check_image(path)
        if volumes is None:
            cut += 1
            continue
        sidecar, content = _existing(path.with_suffix(".json")), {}
        if sidecar is not None:
            try:
                content = read_sidecar(sidecar)
            except ValueError:
                sidecar = None
                unreadable += 1
        bval, bvec = _existing(path.with_suffix(".bval")), _existing(path.with_suffix(".bvec"))
        if (bval or bvec) and not _directions_fit(bval, bvec, volumes):
            bval = bvec = None
            undirected += 1
        kind = image_kind(path.name)
        images.append(ConvertedImage(image=path, sidecar=sidecar, bval=bval, bvec=bvec, kind=kind))
        orders[path] = (_natural(kind), _number(content.get("AcquisitionNumber")), str(content.get("AcquisitionTime")))
    alike = Counter(orders.values())
    images.sort(
        key=lambda one: (
            orders[one.image],
            # Which of them got the letter hangs on the order in which a file system lists names.
            file_digest(one.image) if alike[orders[one.image]] > 1 else "",
        )
    )
    return _Made(images=tuple(images), cut=cut, unreadable=unreadable, undirected=undirected)


def image_kind(name: str) -> str:
    """Tell what an image is from the ending of its name, as `ConvertedImage.kind` says it.

    Parameters
    ----------
    name
        As dcm2niix makes it of the template `image`, such as `image_e2_ph.nii`.
    """
    parts: list[str] = []
    for part in name.removesuffix(".nii").split("_")[1:]:
        match = _KIND.fullmatch(part)
        if match is None:
            word = "other" if "coil" not in parts else ""  # a coil's name may have more parts
        elif match["coil"]:
            word = "coil"
        else:
            word = (match["kind"] or "").lower()
        if word and word not in parts:
            parts.append(word)
    return "-".join(parts)


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None


def _natural(kind: str) -> tuple[tuple[str, int], ...]:
    return tuple((word.rstrip("0123456789."), int("0" + re.sub(r"\D", "", word))) for word in kind.split("-"))


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _check_image(path: Path) -> int | None:
    """Return how many volumes a NIfTI file holds, None if it is not all there; empty the texts of its header."""
    with open(path, "r+b") as stream:
        header = stream.read(540)
        try:
            size = struct.unpack_from("=i", header)[0]
            if size == 348:
                rank, *shape = struct.unpack_from("=8h", header, 40)
                bits, offset = struct.unpack_from("=h", header, 72)[0], struct.unpack_from("=f", header, 108)[0]
            else:
                rank, *shape = struct.unpack_from("=8q", header, 16)
                bits, offset = struct.unpack_from("=h", header, 14)[0], struct.unpack_from("=q", header, 168)[0]
        except struct.error:
            return None
        if size not in _TEXTS or not 0 < rank < 8:
            return None
        voxels = math.prod(shape[:rank])
        if voxels < 1 or os.fstat(stream.fileno()).st_size < offset + voxels * bits / 8:
            return None
        for place, length in _TEXTS[size]:
            stream.seek(place)
            stream.write(bytes(length))
    return int(shape[3]) if rank > 3 else 1


def _directions_fit(bval: Path | None, bvec: Path | None, volumes: int) -> bool:
    """Tell whether there is one strength and one direction a volume, all of them numbers."""
    if bval is None or bvec is None:
        return False
    try:
        strengths, directions = (
            [[float(word) for word in line.split()] for line in path.read_text("ascii").splitlines()]
            for path in (bval, bvec)
        )
    except ValueError:
        return False
    return [len(row) for row in strengths] == [volumes] and [len(row) for row in directions] == [volumes] * 3


# What became of it ---------------------------------------------------------------------------------------------------


def _judge(ended: Ended | None, told: _Told, made: _Made, *, files: int) -> Conversion:
    """Put together what the converter ended with, what it said, and what lies there."""

    def conversion(outcome: str, reason: str = "") -> Conversion:
        return Conversion(
            images=made.images if outcome in ("whole", "partial") else (),
            outcome=outcome,
            exit_code=ended.exit_code if ended else -1,
            warnings=told.warnings,
            reason=reason,
        )

    if ended is None:
        return conversion("failed", "The workflow around the converter stopped.")
    if ended.timed_out:
        return conversion("failed", "The converter was stopped because it took too long.")
    if ended.exit_code < 0:
        return conversion("failed", f"The converter was ended by signal {-ended.exit_code}.")
    if ended.exit_code not in (0, 1, 2, 8):
        return conversion("failed", f"The converter ended with code {ended.exit_code}.")
    if not made.images:
        if made.cut or ended.exit_code == 1:
            return conversion("failed", _sentence(_shortcomings(ended, told, made, files)))
        return conversion("nothing", f"None of {counted(files, 'file')} is an image that the converter knows.")
    shortcomings = _shortcomings(ended, told, made, files)
    return conversion("partial", _sentence(shortcomings)) if shortcomings else conversion("whole")


def _shortcomings(ended: Ended, told: _Told, made: _Made, files: int) -> list[str]:
    """Say all that is missing from a conversion; each of it would be a silent half."""
    found = []
    if told.found < 0:
        found.append("the converter does not say how many files it found")
    if 0 <= told.found < files:
        found.append(f"{files - told.found} of {counted(files, 'file')} are no image that the converter knows")
    if told.found > told.converted + told.copies:
        share = f"only {told.converted} of {counted(told.found, 'file')} went into images"
        copies = f" ({told.copies} were taken for copies of others)" if told.copies else ""
        found.append(share + copies if told.converted else f"none of {counted(told.found, 'file')} went into an image")
    if made.cut:
        found.append(f"{counted(made.cut, 'image')} ended too early")
    if made.unreadable:
        found.append(f"{counted(made.unreadable, 'sidecar')} cannot be read")
    if made.undirected:
        found.append(f"of {counted(made.undirected, 'image')} the diffusion directions do not fit the volumes")
    if not found and ended.exit_code != 0:
        found.append(f"the converter ended with code {ended.exit_code}")
    return found


def _sentence(parts: Sequence[str]) -> str:
    text = ", and ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _moved(conversion: Conversion, work: Path) -> Conversion:
    """Move the images, and what belongs to them, out of the folder that is taken away."""
    moved = tuple(
        ConvertedImage(
            image=_moved_file(one.image, work),
            sidecar=_moved_file(one.sidecar, work) if one.sidecar else None,
            bval=_moved_file(one.bval, work) if one.bval else None,
            bvec=_moved_file(one.bvec, work) if one.bvec else None,
            kind=one.kind,
        )
        for one in conversion.images
    )
    return Conversion(
        images=moved,
        outcome=conversion.outcome,
        exit_code=conversion.exit_code,
        warnings=conversion.warnings,
        reason=conversion.reason,
    )


def _moved_file(path: Path, folder: Path) -> Path:
    target = folder / path.name
    os.replace(path, target)
    return target
