"""Set every trap that a dump is known to hold, and say of each file what must become of it.

A trap is a function that fills one folder. It states the fate of each file as it writes it, so that what a file is and
what is expected of it are read together. The UIDs of a trap hold its number: traps share no instance.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import itertools
import lzma
import os
import socket
import struct
import tarfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from tests.builders.world import make_instance, world_uid, write_instance
from tests.dicom.encoder import ITEM_END_BYTES, NO_LENGTH, SEQUENCE_END_BYTES, Leaf, encode, head, write_meta

QUIET_SECONDS = 3600
"""The quiet period that the traps are to be sorted with; every file but the fresh ones is years old."""

MEMBERS = 40
MEMBER_BYTES = 1 << 20
TOTAL_BYTES = 3 << 20
RATIO = 100
DEPTH = 2
"""The limits of archives that the traps are to be sorted with: the bombs go beyond, everything else stays below."""

SETTINGS = (
    f"[index]\nquiet_seconds = {QUIET_SECONDS}\n"
    f"[archives]\nmembers = {MEMBERS}\nmember_bytes = {MEMBER_BYTES}\ntotal_bytes = {TOTAL_BYTES}\n"
    f"ratio = {RATIO}\ndepth = {DEPTH}\n"
)
"""What a study file has to say to sort the traps."""

OLD_NS = 1_500_000_000 * 10**9
"""When every ordinary file of the traps was last changed: in July 2017."""

LONGEST_PATH = 4095
"""Bytes of a path that Linux takes (PATH_MAX without its NUL)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What must become of one file.

    Attributes
    ----------
    digest
        SHA-256 of the content; empty for what has none, or cannot be read.
    """

    digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed(Fate):
    """It stands in the sorted tree under its own name in the plan, and in no list of what was set aside.

    Attributes
    ----------
    below
        Texts that its place must hold, such as the patient's ID.
    """

    below: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict(Fate):
    """It stands in the sorted tree, and so do others with its SOP Instance UID; the list says how they differ.

    Attributes
    ----------
    differs
        What the list says of all of a trap's files but the one that the others are compared with.
    """

    differs: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate(Fate):
    """It is not placed, because a file with the same bytes is; the list names that one.

    Attributes
    ----------
    of
        Below the trap's folder.
    """

    of: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected(Fate):
    """It is not placed, and the list of rejects says why."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened(Fate):
    """A container: what counts is what it holds, so it is in no list itself."""


@dataclass(slots=True, kw_only=True)
class TrapFolder:
    """One trap's folder while it is filled.

    Attributes
    ----------
    folder
        The folder.
    dump
        The dump around it, whose path counts where lengths do.
    number
        The trap's own number, which is the patient's number in all that `image` makes.
    scanner_data
        The folder with scanners' real files.
    fates
        By path below the trap's folder; of what an archive holds as `archive!/member`.
    nameless
        Digests of contents that must be placed as well, but share their path with another or have none of their own.
    together, apart
        Files that must share, or must not share, the folder they are placed in.
    modes
        Modes to be set when everything is written: a folder that may not be opened cannot be filled either.
    ages
        Times of the last change that are not `OLD_NS`.
    """

    folder: Path
    dump: Path
    number: int
    scanner_data: Path
    fates: dict[bytes, Fate] = field(default_factory=dict)
    nameless: list[str] = field(default_factory=list)
    together: list[tuple[bytes, ...]] = field(default_factory=list)
    apart: list[tuple[bytes, ...]] = field(default_factory=list)
    modes: dict[bytes, int] = field(default_factory=dict)
    ages: dict[bytes, int] = field(default_factory=dict)

    def path(self, name: str | bytes) -> bytes:
        """Return where a file of the trap stands."""
        return os.fsencode(self.folder) + b"/" + os.fsencode(name)

    def image(self, instance: int = 1, *, series: int = 1, study: int = 1, **overrides: object) -> Dataset:
        """Make an image of this trap's own patient; equal numbers give equal images."""
        return make_instance(self.number, study, series, instance, **overrides)

    def image_bytes(self, instance: int = 1, **words: object) -> bytes:
        """Make an image as `image` does, and write it."""
        return written(self.image(instance, **words))

    def real(self, name: str, *, number: int | None = None) -> bytes:
        """Read one of pydicom's or the scanners' own files, byte for byte but for its UIDs, which become the trap's."""
        own = Path(pydicom.data.__file__).parent / "test_files" / name
        path = own if own.exists() else self.scanner_data / name
        return with_own_uids(path.read_bytes(), self.number if number is None else number)

    def put(self, name: str | bytes, content: bytes, fate: Fate, *, holds: bytes | None = None) -> None:
        """Write a file, with the folders above it, and note its fate; `holds` is what counts if it is only packed."""
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "xb") as stream:
            stream.write(content)
        self.note(name, with_digest(fate, content if holds is None else holds))

    def put_hole(self, name: str | bytes, begin: bytes, size: int, fate: Fate) -> None:
        """Write a file whose end was never written; its content is too much to be digested."""
        path = self.path(name)
        with open(path, "xb") as stream:
            stream.write(begin)
            stream.truncate(size)
        self.note(name, fate)

    def note(self, name: str | bytes, fate: Fate) -> None:
        """Note the fate of what is there already, or of what lies inside something else."""
        key = os.fsencode(name)
        assert key not in self.fates, key
        self.fates[key] = fate

    def also_placed(self, content: bytes) -> None:
        """Note a content that must be placed, whatever the lists call it."""
        self.nameless.append(hashlib.sha256(content).hexdigest())

    def put_archive(
        self, name: str | bytes, content: bytes, members: Mapping[str, tuple[bytes, Fate]], *, fate: Fate | None = None
    ) -> None:
        """Write an archive, and note the fates of what it holds: member's name to its content and fate."""
        self.put(name, content, fate or Opened())
        for member, (inner, inner_fate) in members.items():
            self.note(os.fsencode(name) + b"!/" + os.fsencode(member), with_digest(inner_fate, inner))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trap:
    """A trap, and how to set it."""

    name: str
    make: Callable[[TrapFolder], None]


TRAPS: dict[str, Trap] = {}
"""Every trap by its name, in the order of this page."""


def trap(make: Callable[[TrapFolder], None]) -> Callable[[TrapFolder], None]:
    """Register a function as a trap called like it."""
    TRAPS[make.__name__] = Trap(name=make.__name__, make=make)
    return make


def set_traps(dump: Path, scanner_data: Path) -> dict[str, TrapFolder]:
    """Set all traps below a new folder.

    Returns
    -------
    What every trap expects, by its name. `release_traps` makes the folder one that can be removed.
    """
    dump.mkdir()
    filled = {}
    for number, (name, one) in enumerate(TRAPS.items(), 1):
        place = TrapFolder(folder=dump / name, dump=dump, number=number, scanner_data=scanner_data)
        place.folder.mkdir()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom warns of what the traps do on purpose
            one.make(place)
        filled[name] = place
    for place in filled.values():
        _age(place.folder)
        for path, moment in place.ages.items():
            os.utime(place.path(path), ns=(moment, moment))
    for place in filled.values():
        for path, mode in place.modes.items():
            os.chmod(place.path(path), mode)
    return filled


def release_traps(traps: Iterable[TrapFolder]) -> None:
    """Give back the modes that `set_traps` took, so that the dump can be walked and removed."""
    for place in traps:
        for path in place.modes:
            os.chmod(place.path(path), 0o700)


def _age(folder: Path) -> None:
    """Make everything in a folder old, however long its path is."""
    for _, _, names, descriptor in os.fwalk(os.fsencode(folder)):
        for name in names:
            os.utime(name, ns=(OLD_NS, OLD_NS), dir_fd=descriptor, follow_symlinks=False)


def with_digest(fate: Fate, content: bytes) -> Fate:
    """Return a fate that knows the content it is the fate of."""
    fields = {name: getattr(fate, name) for name in fate.__dataclass_fields__}
    return type(fate)(**(fields | {"digest": hashlib.sha256(content).hexdigest()}))


def with_own_uids(content: bytes, number: int) -> bytes:
    """Give a file the UIDs of a trap, each as long as the old one, so that nothing else of the file changes."""
    dataset = pydicom.dcmread(io.BytesIO(content), force=True, stop_before_pixels=True)
    if dataset.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        return content  # there are no UIDs to be seen in it
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        old = str(dataset.get(keyword, ""))
        if len(old) >= 16:
            digits = str(int.from_bytes(hashlib.sha512(f"{number} {old}".encode()).digest(), "big"))
            content = content.replace(old.encode(), f"2.25.9{digits}"[: len(old)].encode())
    return content


_SCRATCH = itertools.count()


def written(dataset: Dataset, **how: object) -> bytes:
    """Write a data set as `world.write_instance` does, into memory."""
    descriptor = os.memfd_create(f"trap-{next(_SCRATCH)}")
    try:
        path = Path(f"/proc/self/fd/{descriptor}")
        write_instance(path, dataset, **how)
        return path.read_bytes()
    finally:
        os.close(descriptor)


def with_value(content: bytes, tag: int, vr: str, old: bytes, new: bytes) -> bytes:
    """Give an element another value in a file of explicit VR little endian, whatever the VR allows."""
    fill = b"\0" if vr == "UI" else b" "
    before, after = (
        encode([Leaf(tag=tag, vr=vr, value=value + fill * (len(value) & 1))], explicit=True)[0] for value in (old, new)
    )
    assert content.count(before) == 1
    return content.replace(before, after)


LARGE = {"Rows": 64, "Columns": 64, "PixelData": (np.arange(64 * 64) ** 2 % 4093).astype("<u2").tobytes()}
"""Overrides of an image that JPEG 2000 takes, with its five resolutions."""


def compressed(dataset: Dataset, syntax: UID, **how: object) -> bytes:
    """Write a data set with its pixels compressed, everything else unchanged."""
    copy = pydicom.dcmread(io.BytesIO(written(dataset)))
    # The UID stays, as it does where an archive compresses what it stores.
    copy.compress(syntax, generate_instance_uid=False, **how)
    # What says how it is packed, not what it shows, is in the file meta information alone.
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, copy)
    return stream.getvalue()


def zipped(members: Mapping[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Make a zip archive."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, (2017, 7, 14, 2, 40, 0)), content, method)
    return stream.getvalue()


def tarred(members: Mapping[str, bytes], *, form: int = tarfile.PAX_FORMAT) -> bytes:
    """Make a tar archive, not compressed."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def gzipped(content: bytes) -> bytes:
    """Compress as gzip does."""
    return gzip.compress(content, mtime=0)


# Where files lie, and what they are called.


@trap
def folders_60_deep(here: TrapFolder) -> None:
    deep = "/".join(f"level {level}" for level in range(60))
    here.put(f"{deep}/x.dcm", here.image_bytes(1), Placed())
    here.put(f"{deep}/notes.txt", b"seen from below", Rejected(reason="not-dicom"))


@trap
def a_path_as_long_as_paths_can_be(here: TrapFolder) -> None:
    folder = _long_folder(here, LONGEST_PATH - len("/x.dcm"))
    here.put(folder + "/x.dcm", here.image_bytes(1), Placed())


@trap
def a_path_longer_than_paths_can_be(here: TrapFolder) -> None:
    # Made from inside; whoever asks for it by its whole path is told that there is no such thing.
    path = b""
    descriptor = os.open(here.folder, os.O_RDONLY)
    try:
        while len(here.path(path)) <= LONGEST_PATH + 200:
            beyond = len(here.path(path)) > LONGEST_PATH
            name = b"d" * 200
            os.mkdir(name, dir_fd=descriptor)
            deeper = os.open(name, os.O_RDONLY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = deeper
            path += (b"/" if path else b"") + name
            if not beyond and len(here.path(path)) > LONGEST_PATH:
                here.note(path, Rejected(reason="folder-unreadable"))
        with open(os.open("x.dcm", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=descriptor), "wb") as stream:
            stream.write(here.image_bytes(1))
    finally:
        os.close(descriptor)


def _long_folder(here: TrapFolder, length: int) -> str:
    """Name a folder below the trap's whose absolute path is `length` bytes long."""
    rest = length - len(here.path(""))
    names = []
    while rest > 202:
        names.append("f" * 200)
        rest -= 201
    names.append("f" * rest)
    return "/".join(names)


@trap
def names_of_255_bytes(here: TrapFolder) -> None:
    here.put("n" * 255, here.image_bytes(1), Placed())
    here.put("é" * 127 + "n", here.image_bytes(2), Placed())
    here.put("z" * 252 + ".gz", gzipped(here.image_bytes(3)), Placed(), holds=here.image_bytes(3))
    here.put("t" * 255, b"a text", Rejected(reason="not-dicom"))


@trap
def names_that_are_no_text(here: TrapFolder) -> None:
    here.put(b"\xff\xfe\x80.dcm", here.image_bytes(1), Placed())
    here.put(b"M\xfcller/caf\xe9", here.image_bytes(2), Placed())
    here.put(b"notes \xe9", b"a text", Rejected(reason="not-dicom"))
    here.put("notes \\udce9", b"another, named like the first one is shown", Rejected(reason="not-dicom"))


@trap
def names_a_shell_stumbles_over(here: TrapFolder) -> None:
    names = [
        "a\nb",
        "a\tb",
        "a\\b",
        "-rf",
        "--dump",
        "'",
        '"',
        "$(id)",
        "*",
        "a;b",
        " ",
        "{x}",
        "%s",
        "a\rb",
        "\x7f",
        "\x01",
    ]
    for number, name in enumerate(names, 1):
        here.put(name, here.image_bytes(number), Placed())
        here.put(f"text {name}", f"text {number}".encode(), Rejected(reason="not-dicom"))


@trap
def names_windows_does_not_take(here: TrapFolder) -> None:
    for number, name in enumerate(["CON", "nul.dcm", "a.", "b ", "a:b", "a?b", "a|b", "...", "LPT1.dcm"], 1):
        here.put(name, here.image_bytes(number), Placed())


@trap
def names_composed_and_decomposed(here: TrapFolder) -> None:
    here.put("\u00e9.dcm", here.image_bytes(1), Placed())
    here.put("e\u0301.dcm", here.image_bytes(2), Placed())


@trap
def names_that_differ_in_case(here: TrapFolder) -> None:
    here.put("image.dcm", here.image_bytes(1), Placed())
    here.put("IMAGE.DCM", here.image_bytes(2), Placed())


@trap
def hidden_files(here: TrapFolder) -> None:
    here.put(".x.dcm", here.image_bytes(1), Placed())
    here.put(".hidden/..x", here.image_bytes(2), Placed())
    here.put(".scanward-1-x.dcm", here.image_bytes(3), Placed())


@trap
def folders_called_like_files(here: TrapFolder) -> None:
    here.put("x.dcm/x.dcm", here.image_bytes(1), Placed())
    here.put("DICOMDIR/IM000001", here.image_bytes(2), Placed())
    here.put("a.zip/x.dcm", here.image_bytes(3), Placed())
    os.makedirs(here.path("empty/within/nothing.dcm"))


@trap
def the_wrong_extension(here: TrapFolder) -> None:
    here.put("x.txt", here.image_bytes(1), Placed())
    here.put("x.zip", here.image_bytes(2), Placed())
    here.put("x.gz", here.image_bytes(3), Placed())
    here.put("x.jpg.exe", here.image_bytes(4), Placed())
    here.put("Thumbs.db", here.image_bytes(5), Placed())


# Links, special files, permissions, times.


@trap
def links_and_loops(here: TrapFolder) -> None:
    here.put("folder/x.dcm", here.image_bytes(1), Placed())
    outside = here.dump.parent / "outside the dump"
    outside.mkdir(exist_ok=True)
    (outside / "x.dcm").write_bytes(here.image_bytes(2))
    links = {
        "to a file": "folder/x.dcm",
        "out of the dump": str(outside / "x.dcm"),
        "to a folder out of the dump": str(outside),
        "to a folder": "folder",
        "to nothing": "nowhere",
        "to itself": "to itself",
        "to its folder": ".",
        "to what is above": "../..",
        "folder/to the root": "/",
        "folder/and back": "../folder",
    }
    for name, target in links.items():
        os.symlink(target, here.path(name))
        here.note(name, Rejected(reason="symlink"))


@trap
def pipes_and_sockets(here: TrapFolder) -> None:
    here.put("x.dcm", here.image_bytes(1), Placed())
    os.mkfifo(here.path("pipe.dcm"))
    here.note("pipe.dcm", Rejected(reason="special-file"))
    folder = os.open(here.folder, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as stream:
            stream.bind(f"/proc/self/fd/{folder}/socket")  # an address holds 108 bytes, the folder's path may not fit
    finally:
        os.close(folder)
    here.note("socket", Rejected(reason="special-file"))


@trap
def hard_links(here: TrapFolder) -> None:
    here.put("a.dcm", here.image_bytes(1), Placed())
    for name in ("b.dcm", "c.dcm"):
        os.link(here.path("a.dcm"), here.path(name))
        here.note(name, with_digest(Duplicate(of=b"a.dcm"), here.image_bytes(1)))
    here.put("text", b"a text", Rejected(reason="not-dicom"))
    os.link(here.path("text"), here.path("text again"))
    here.note("text again", with_digest(Rejected(reason="not-dicom"), b"a text"))


@trap
def a_file_that_may_not_be_read(here: TrapFolder) -> None:
    here.put("x.dcm", here.image_bytes(1), Placed())
    here.put("closed.dcm", here.image_bytes(2), Rejected(reason="unreadable"))
    here.put("closed.txt", b"who knows", Rejected(reason="unreadable"))
    here.put("only read.dcm", here.image_bytes(3), Placed())
    here.put("runs.dcm", here.image_bytes(4), Placed())
    here.modes |= {b"closed.dcm": 0, b"closed.txt": 0o300, b"only read.dcm": 0o400, b"runs.dcm": 0o755}


@trap
def a_folder_that_may_not_be_opened(here: TrapFolder) -> None:
    here.put("x.dcm", here.image_bytes(1), Placed())
    for name, mode in (("closed", 0), ("not listed", 0o300)):
        os.mkdir(here.path(name))
        with open(here.path(f"{name}/x.dcm"), "wb") as stream:
            stream.write(here.image_bytes(2))
        here.note(name, Rejected(reason="folder-unreadable"))
        here.modes[name.encode()] = mode
    here.put("listed and no more/x.dcm", here.image_bytes(3), Rejected(reason="unreadable"))
    here.modes[b"listed and no more"] = 0o600


@trap
def files_of_strange_ages(here: TrapFolder) -> None:
    second = 10**9
    ages = {"1970.dcm": 0, "1969.dcm": -second - 1, "1901.dcm": -(2**31) * second, "2106.dcm": 2**32 * second - 1}
    for number, (name, moment) in enumerate(ages.items(), 1):
        here.put(name, here.image_bytes(number), Placed())
        here.ages[name.encode()] = moment


@trap
def files_still_being_written(here: TrapFolder) -> None:
    here.put("done.dcm", here.image_bytes(1), Placed())
    here.put("fresh.dcm", here.image_bytes(2), Rejected(reason="still-arriving"))
    here.put("fresh.txt", b"a text", Rejected(reason="still-arriving"))
    now = time.time_ns()
    here.ages |= {b"fresh.dcm": now, b"fresh.txt": now}


@trap
def a_sparse_image(here: TrapFolder) -> None:
    # Most of its pixels were never written, and read as zeros.
    pixels = 4096 * 1024 * 2
    content = written(here.image(1, Rows=4096, Columns=1024, PixelData=None))
    content += head(0x7FE00010, "OW", pixels, explicit=True) + b"\x01\x00"
    whole = content + bytes(pixels - 2)
    here.put_hole("x.dcm", content, len(whole), with_digest(Placed(), whole))


@trap
def a_terabyte_of_nothing(here: TrapFolder) -> None:
    # Whoever reads more than the beginning of it does not come back before the deadline.
    here.put_hole("x.raw", b"", 1 << 40, Rejected(reason="not-dicom"))


@trap
def a_gigabyte_of_nothing_behind_the_prefix(here: TrapFolder) -> None:
    # Nothing but elements (0000,0000) of no length, a hundred million of them.
    here.put_hole("x.dcm", bytes(128) + b"DICM", 1 << 30, Rejected(reason="header-damaged"))


# What is no DICOM file.


@trap
def nothing_in_it(here: TrapFolder) -> None:
    for name in ("empty", "empty.dcm", "DICOMDIR", "empty.zip", "empty.gz"):
        here.put(name, b"", Rejected(reason="empty"))


@trap
def what_computers_leave_behind(here: TrapFolder) -> None:
    here.put("x.dcm", here.image_bytes(1), Placed())
    here.put("._x.dcm", apple_double(), Rejected(reason="apple-double"))
    here.put("__MACOSX/._x.dcm", apple_double(), Rejected(reason="apple-double"))
    here.put("._y.dcm", here.image_bytes(2), Placed())
    here.put(".DS_Store", b"\0\0\0\1Bud1" + bytes(6000), Rejected(reason="not-dicom"))
    here.put("Thumbs.db", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(2000), Rejected(reason="not-dicom"))
    here.put("desktop.ini", b"[.ShellClassInfo]\r\nIconIndex=0\r\n", Rejected(reason="not-dicom"))


def apple_double() -> bytes:
    """Write an AppleDouble header with one entry, the Finder's (RFC 1740, appendix B)."""
    entry = struct.pack(">LLL", 9, 38, 32)
    return struct.pack(">LL16xH", 0x00051607, 0x00020000, 1) + entry + bytes(32)


@trap
def texts(here: TrapFolder) -> None:
    text = "Notes of the day: the scanner was restarted at noon.\n"
    contents = {
        "x.dcm": text.encode(),
        "utf-16.txt": text.encode("utf-16"),
        "utf-16be.txt": text.encode("utf-16-be"),
        "utf-32.txt": text.encode("utf-32"),
        "latin-1.txt": "Prüfung, Größe, Ärzte".encode("latin-1"),
        "x.json": b'{"00080018": {"vr": "UI", "Value": ["1.2.3"]}}',
        "x.xml": b'<?xml version="1.0"?><NativeDicomModel/>',
        "one byte": b"\x02",
        "BEL": b"\x08\x00" * 40,
        "PK.txt": b"PK is what pharmacokinetics is called; " * 10,
        "BZ.txt": b"BZ: no block follows. " * 10,
    }
    for name, content in contents.items():
        here.put(name, content, Rejected(reason="not-dicom"))


@trap
def files_of_other_formats(here: TrapFolder) -> None:
    nifti = struct.pack("<L", 348) + bytes(340) + b"n+1\0" + bytes(4 + 512)
    image = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\0\0\0\0\x3a\x7e\x9b\x55"
    image += b"\0\0\0\nIDAT\x78\x9c\x63\x60\0\0\0\2\0\1\x48\xaf\xa4\x71\0\0\0\0IEND\xae\x42\x60\x82"
    contents = {
        "x.nii": nifti,
        "x.png": image,
        "x.pdf": b"%PDF-1.4\n1 0 obj<<>>endobj\ntrailer<<>>\n%%EOF\n",
        "x.jpg": b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(500),
        "x.hdf5": b"\x89HDF\r\n\x1a\n" + bytes(600),
        "x.exe": b"MZ" + bytes(300) + b"PE\0\0",
        "x.elf": b"\x7fELF\2\1\1" + bytes(400),
        "x.sqlite": b"SQLite format 3\0" + bytes(600),
        "x.rec": bytes(2000),
        "x.7z": b"7z\xbc\xaf\x27\x1c" + bytes(200),
        "x.rar": b"Rar!\x1a\x07\x01\0" + bytes(200),
        "x.Z": b"\x1f\x9d\x90" + bytes(200),
    }
    for name, content in contents.items():
        here.put(name, content, Rejected(reason="not-dicom"))
    here.put("x.nii.gz", gzipped(nifti), Rejected(reason="not-dicom"), holds=nifti)


@trap
def an_office_document(here: TrapFolder) -> None:
    # Zip archives for whoever looks at the bytes alone, and single files for whoever wrote them.
    word = {"[Content_Types].xml": b"<Types/>", "_rels/.rels": b"<Relationships/>", "word/document.xml": b"<document/>"}
    here.put("report.docx", zipped(word), Rejected(reason="not-dicom"))
    text = {"mimetype": b"application/vnd.oasis.opendocument.text", "content.xml": b"<document-content/>"}
    here.put("report.odt", zipped(text, method=0), Rejected(reason="not-dicom"))


@trap
def almost_the_prefix(here: TrapFolder) -> None:
    here.put("DICM alone", bytes(128) + b"DICM", Rejected(reason="header-damaged"))
    here.put("DICM and noise", bytes(128) + b"DICM" + b"\xa5\x5a\x3c" * 200, Rejected(reason="header-damaged"))
    here.put("131 bytes", bytes(128) + b"DIC", Rejected(reason="not-dicom"))
    here.put("dicm", bytes(128) + b"dicm" + here.image_bytes(1)[132:], Rejected(reason="not-dicom"))
    here.put("one too far", bytes(129) + b"DICM" + here.image_bytes(1)[132:], Rejected(reason="not-dicom"))


@trap
def directories_of_media(here: TrapFolder) -> None:
    # A fresh one beside its files, one whose files have moved away, one renamed, and in three encodings.
    here.put("cd 1/DICOMDIR", here.real("dicomdirtests/DICOMDIR"), Rejected(reason="dicomdir"))
    here.put("cd 1/98892001/CT2N/6293", here.real("dicomdirtests/98892001/CT2N/6293"), Placed())
    here.put("cd 1/98892003/MR1/5641", here.real("dicomdirtests/98892003/MR1/5641"), Placed())
    here.put("cd 2/DICOMDIR", here.real("dicomdirtests/DICOMDIR"), Rejected(reason="dicomdir"))
    here.put("cd 2/dicomdir", here.real("dicomdirtests/DICOMDIR-nooffset"), Rejected(reason="dicomdir"))
    here.put("stale/directory.bin", here.real("dicomdirtests/DICOMDIR"), Rejected(reason="dicomdir"))
    here.put("implicit", here.real("dicomdirtests/DICOMDIR-implicit"), Rejected(reason="dicomdir"))
    here.put("big endian", here.real("dicomdirtests/DICOMDIR-bigEnd"), Rejected(reason="dicomdir"))


# How DICOM files are written.


@trap
def the_four_plain_syntaxes(here: TrapFolder) -> None:
    below = (f"SYNWORLD{here.number:04d}",)
    syntaxes = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
    for number, syntax in enumerate(syntaxes, 1):
        content = written(here.image(number), transfer_syntax=syntax)
        here.put(f"{syntax.keyword}.dcm", content, Placed(below=below))
    here.together.append(tuple(f"{syntax.keyword}.dcm".encode() for syntax in syntaxes))


@trap
def real_files_of_rare_syntaxes(here: TrapFolder) -> None:
    for number, name in enumerate(("expb", "bigendian", "implicit", "padded")):
        here.put(name, here.real(f"MR_small_{name}.dcm", number=1000 * here.number + number), Placed())
    here.put("image_dfl.dcm", here.real("image_dfl.dcm"), Placed())
    here.put("SC_rgb_small_odd_big_endian.dcm", here.real("SC_rgb_small_odd_big_endian.dcm"), Placed())


@trap
def compressed_pixels(here: TrapFolder) -> None:
    syntaxes = [RLELossless, JPEGLSLossless, JPEG2000Lossless]
    for number, syntax in enumerate(syntaxes, 1):
        here.put(syntax.keyword, compressed(here.image(number, **LARGE), syntax), Placed())


@trap
def no_preamble(here: TrapFolder) -> None:
    below = (f"SYNWORLD{here.number:04d}",)
    here.put("explicit.dcm", written(here.image(1), preamble=False), Placed(below=below))
    implicit = written(here.image(2), transfer_syntax=ImplicitVRLittleEndian, preamble=False)
    here.put("implicit.dcm", implicit, Placed(below=below))


@trap
def neither_preamble_nor_meta_header(here: TrapFolder) -> None:
    below = (f"SYNWORLD{here.number:04d}",)
    explicit = written(here.image(1), preamble=False, meta=False)
    implicit = written(here.image(2), transfer_syntax=ImplicitVRLittleEndian, preamble=False, meta=False)
    big = written(here.image(3), transfer_syntax=ExplicitVRBigEndian, preamble=False, meta=False)
    for name, content in (("explicit", explicit), ("implicit.dcm", implicit), ("big", big)):
        here.put(name, content, Placed(below=below))
    here.together.append((b"explicit", b"implicit.dcm", b"big"))


@trap
def no_meta_header(here: TrapFolder) -> None:
    below = (f"SYNWORLD{here.number:04d}",)
    here.put("explicit.dcm", written(here.image(1), meta=False), Placed(below=below))
    implicit = written(here.image(2), transfer_syntax=ImplicitVRLittleEndian, meta=False)
    here.put("implicit.dcm", implicit, Placed(below=below))


@trap
def the_group_length_of_the_meta_header_is_wrong(here: TrapFolder) -> None:
    below = (f"SYNWORLD{here.number:04d}",)
    content = here.image_bytes(1)
    right = int.from_bytes(content[140:144], "little")
    assert content[132:140] == b"\x02\0\0\0UL\x04\0"
    for number, length in enumerate([0, right - 6, right + 6, right + 100_000, 0xFFFFFFFF], 1):
        content = here.image_bytes(number)
        here.put(f"{number}.dcm", content[:140] + struct.pack("<L", length) + content[144:], Placed(below=below))
    content = here.image_bytes(6)
    here.put("absent.dcm", content[:132] + content[144:], Placed(below=below))


@trap
def no_transfer_syntax_in_the_meta_header(here: TrapFolder) -> None:
    # Explicit VR little endian, as the meta header itself is.
    information = here.image_bytes(1)
    syntax = Leaf(tag=0x00020010, vr="UI", value=b"1.2.840.10008.1.2.1\0")
    element, _ = encode([syntax], explicit=True)
    assert information.count(element) == 1
    short = int.from_bytes(information[140:144], "little") - len(element)
    content = information[:140] + struct.pack("<L", short) + information[144:].replace(element, b"")
    here.put("x.dcm", content, Placed(below=(f"SYNWORLD{here.number:04d}",)))


@trap
def a_transfer_syntax_nobody_knows(here: TrapFolder) -> None:
    syntaxes = {"private": "1.2.840.113619.5.2.99", "future": "1.2.840.10008.1.2.4.999"}
    for number, (name, syntax) in enumerate(syntaxes.items(), 1):
        body = written(here.image(number), preamble=False, meta=False)
        here.put(name, write_meta(syntax) + body, Placed())


@trap
def the_meta_header_says_the_wrong_syntax(here: TrapFolder) -> None:
    # Implicit data behind a meta header that says explicit, and the other way round: some archives write this.
    one = written(here.image(1), transfer_syntax=ImplicitVRLittleEndian, preamble=False, meta=False)
    here.put("says explicit.dcm", write_meta(ExplicitVRLittleEndian) + one, Placed())
    other = written(here.image(2), preamble=False, meta=False)
    here.put("says implicit.dcm", write_meta(ImplicitVRLittleEndian) + other, Placed())


@trap
def preambles_that_look_like_something_else(here: TrapFolder) -> None:
    # The preamble is free for use by other formats (PS3.10 7.1): a TIFF file may be a DICOM file as well.
    magics = [
        b"II*\0",
        b"PK\x03\x04",
        b"\x1f\x8b\x08",
        b"BZh9",
        b"\xfd7zXZ\0",
        b"\0\x05\x16\x07",
        b"%PDF-",
        b"\x08\0\x05\0CS",
    ]
    for number, magic in enumerate(magics, 1):
        content = here.image_bytes(number)
        here.put(f"{number}.dcm", magic.ljust(128, b"\0") + content[128:], Placed())
    content = here.image_bytes(99)
    preamble = tarfile.TarInfo("x").tobuf()[:128]
    here.put("tar.dcm", preamble + content[128:], Placed())


@trap
def elements_out_of_order(here: TrapFolder) -> None:
    content = here.image_bytes(1)
    plain = here.image(1)
    number, _ = encode([Leaf(tag=0x00200011, vr="IS", value=b"1 ")], explicit=True)
    uid, _ = encode([Leaf(tag=0x00080018, vr="UI", value=_padded_uid(plain.SOPInstanceUID))], explicit=True)
    for name, element in (("series number first", number), ("SOP Instance UID last", uid)):
        body = content[_data_set(content) :]
        assert body.count(element) == 1
        rest = body.replace(element, b"")
        front = name.endswith("first")
        body = element + rest if front else rest + element
        own = _renamed(content[: _data_set(content)] + body, plain.SOPInstanceUID, 2 if front else 3, here)
        here.put(name, own, Placed(below=(f"SYNWORLD{here.number:04d}",)))


def _padded_uid(uid: str) -> bytes:
    value = uid.encode("ascii")
    return value + b"\0" * (len(value) & 1)


def _renamed(content: bytes, old: str, instance: int, here: TrapFolder) -> bytes:
    new = world_uid(here.number, 1, 1, instance)
    assert len(new) == len(old)
    return content.replace(old.encode(), new.encode())


def _data_set(content: bytes) -> int:
    """Return where the data set of a file begins that has a meta header with a group length."""
    return 144 + int.from_bytes(content[140:144], "little")


@trap
def elements_before_the_numbers(here: TrapFolder) -> None:
    # Private groups, sequences without length and unknown values push (0020,0013) far behind the first read.
    private = encode(
        [
            Leaf(tag=0x00190010, vr="LO", value=b"TRAP MAKER"),
            Leaf(tag=0x00191001, vr="OB", value=bytes(300_000)),
        ],
        explicit=True,
    )[0]
    inner, _ = encode(
        [Leaf(tag=0x00200013, vr="IS", value=b"77"), Leaf(tag=0x00200011, vr="IS", value=b"88")], explicit=True
    )
    item = head(0xFFFEE000, "", NO_LENGTH, explicit=True) + inner + ITEM_END_BYTES
    sequence = head(0x00081140, "SQ", NO_LENGTH, explicit=True) + item * 300 + SEQUENCE_END_BYTES
    implicit, _ = encode([Leaf(tag=0x00200013, vr="IS", value=b"77")], explicit=False)
    item = head(0xFFFEE000, "", NO_LENGTH, explicit=True) + implicit + ITEM_END_BYTES
    unknown = head(0x00091001, "UN", NO_LENGTH, explicit=True) + item * 3 + SEQUENCE_END_BYTES
    nested = b""
    for _ in range(40):
        item = head(0xFFFEE000, "", NO_LENGTH, explicit=True) + nested + ITEM_END_BYTES
        nested = head(0x00081140, "SQ", NO_LENGTH, explicit=True) + item + SEQUENCE_END_BYTES
    blocks = {"private group": private, "sequence": sequence, "unknown": unknown, "nested": nested}
    for number, (name, block) in enumerate(blocks.items(), 1):
        content = here.image_bytes(number)
        group, element = block[:2], block[2:4]
        place = _place_for(content, struct.unpack("<H", group)[0] << 16 | struct.unpack("<H", element)[0])
        here.put(name, content[:place] + block + content[place:], Placed(below=(f"SYNWORLD{here.number:04d}",)))
    here.together.append(tuple(name.encode() for name in blocks))


def _place_for(content: bytes, tag: int) -> int:
    """Return where an element belongs in an explicit VR little endian file without sequences."""
    place = _data_set(content)
    while struct.unpack_from("<HH", content, place) < (tag >> 16, tag & 0xFFFF):
        if content[place + 4 : place + 6] in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
            place += 12 + struct.unpack_from("<L", content, place + 8)[0]
        else:
            place += 8 + struct.unpack_from("<H", content, place + 6)[0]
    return place


@trap
def wrong_value_representations(here: TrapFolder) -> None:
    here.put("badVR.dcm", here.real("badVR.dcm"), Placed())
    for number, vr in enumerate([b"??", b"\0\0", b"sh", b"UN", b"LT"], 1):
        content = here.image_bytes(number)
        element, _ = encode([Leaf(tag=0x00200010, vr="SH", value=b"ST1 ")], explicit=True)
        assert content.count(element) == 1
        here.put(f"{number}.dcm", content.replace(element, _with_vr(element, vr)), Placed())


def _with_vr(element: bytes, vr: bytes) -> bytes:
    if vr == b"UN":
        return element[:4] + vr + b"\0\0" + struct.pack("<L", len(element) - 8) + element[8:]
    return element[:4] + vr + element[6:]


@trap
def bytes_behind_the_data_set(here: TrapFolder) -> None:
    here.put("padding.dcm", here.image_bytes(1) + head(0xFFFCFFFC, "OB", 256, explicit=True) + bytes(256), Placed())
    here.put("zeros.dcm", here.image_bytes(2) + bytes(1000), Placed())
    here.put("noise.dcm", here.image_bytes(3) + b"\xff" * 999, Placed())


# What DICOM files do not say.


@trap
def uids_missing(here: TrapFolder) -> None:
    keywords = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
    cases = [(keyword,) for keyword in keywords] + [keywords]
    for number, missing in enumerate(cases, 1):
        name = " ".join(missing)
        for instance, value in ((number, None), (number + 10, "")):
            body = written(here.image(instance, **dict.fromkeys(missing, value)), preamble=False, meta=False)
            own = Leaf(tag=0x00020003, vr="UI", value=_padded_uid(here.image(instance).SOPInstanceUID))
            content = write_meta(ExplicitVRLittleEndian, more=[own]) + body
            here.put(f"{name} {'absent' if value is None else 'empty'}", content, Placed())


@trap
def no_sop_instance_uid_anywhere(here: TrapFolder) -> None:
    # Not in the meta header either, so that nothing but the content tells the files apart.
    for number, name in ((1, "a"), (2, "b"), (1, "same as a")):
        content = written(here.image(number, SOPInstanceUID=None), preamble=False, meta=False)
        fate = Duplicate(of=b"a") if name.startswith("same") else Placed()
        here.put(name, write_meta(ExplicitVRLittleEndian) + content, fate)


@trap
def numbers_missing(here: TrapFolder) -> None:
    for number, (name, overrides) in enumerate(
        {
            "no series number": {"SeriesNumber": None},
            "no series number again": {"SeriesNumber": None},
            "no instance number": {"InstanceNumber": None},
            "no instance number again": {"InstanceNumber": None},
            "empty": {"SeriesNumber": "", "InstanceNumber": ""},
            "neither": {"SeriesNumber": None, "InstanceNumber": None, "AcquisitionNumber": None},
        }.items(),
        1,
    ):
        here.put(name, here.image_bytes(number, **overrides), Placed())


@trap
def numbers_that_are_none(here: TrapFolder) -> None:
    values = [b"abc", b"3.0", b"-1", b"+7", b" 12", b"99999999999999999999", b"1\\2", b"\0\0", b"1e3", b"--"]
    for number, value in enumerate(values, 1):
        here.put(f"{number}.dcm", with_value(here.image_bytes(number), 0x00200011, "IS", b"1", value), Placed())


@trap
def nobody_and_never(here: TrapFolder) -> None:
    empty = dict.fromkeys(
        [
            "PatientID",
            "PatientName",
            "PatientBirthDate",
            "StudyDate",
            "SeriesDate",
            "AcquisitionDate",
            "ContentDate",
            "StudyTime",
            "SeriesTime",
            "AcquisitionTime",
            "ContentTime",
            "SeriesDescription",
            "ProtocolName",
            "StudyDescription",
            "Modality",
            "StudyID",
        ]
    )
    here.put("a", here.image_bytes(1, **empty), Placed())
    here.put("b", here.image_bytes(2, **dict.fromkeys(empty, "")), Placed())


@trap
def nothing_but_pixels(here: TrapFolder) -> None:
    # A Part 10 file without a single attribute that says whose it is; the pixels may be all that is left of a scan.
    keep = Dataset()
    full = here.image(1)
    for keyword in ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData"):
        keep[keyword] = full[keyword]
    body = written(keep, preamble=False, meta=False)
    here.put("x.dcm", write_meta(ExplicitVRLittleEndian) + body, Placed())


@trap
def cut_in_the_header(here: TrapFolder) -> None:
    content = here.image_bytes(1)
    cuts = {
        "in the prefix": 130,
        "in the meta header": 150,
        "behind the meta header": _data_set(content),
        "in the SOP Instance UID": content.index(b"\x08\0\x18\0UI", _data_set(content)) + 12,
        "in the patient's name": content.index(b"\x10\0\x10\0PN") + 12,
        "in the Series Instance UID": content.index(b"\x20\0\x0e\0UI") + 16,
    }
    for name, place in cuts.items():
        here.put(name, content[:place], Rejected(reason="not-dicom" if place < 132 else "header-damaged"))
    before = here.image_bytes(2)
    # Cut between two elements it is a file without UIDs like any other.
    here.put("before the Study Instance UID", before[: before.index(b"\x20\0\x0d\0UI")], Placed())


@trap
def cut_behind_the_identity(here: TrapFolder) -> None:
    # The header tells what is needed to file it; that pixels are missing is for whoever reads pixels to say.
    content = here.image_bytes(1)
    pixels = content.index(b"\xe0\x7f\x10\0OW")
    for number, (name, place) in enumerate(
        {"all pixels": pixels, "in the pixels": pixels + 40, "a byte": -1}.items(), 1
    ):
        content = here.image_bytes(number)
        here.put(name, content[:place], Placed(below=(f"SYNWORLD{here.number:04d}",)))
    here.put("MR_truncated.dcm", here.real("MR_truncated.dcm"), Placed())


@trap
def cut_files_behind_what_is_whole(here: TrapFolder) -> None:
    # A transfer that broke and was repeated: the cut file is another content, and neither may displace the other.
    content = here.image_bytes(1)
    here.put("a.dcm", content, Conflict(differs="unreadable"))
    here.put("a.dcm.part", content[:-50], Conflict(differs="unreadable"))


# What scanners write beside images.


@trap
def raw_data(here: TrapFolder) -> None:
    here.put("x.dcm", here.image_bytes(1, SOPClassUID="1.2.840.10008.5.1.4.1.1.66", PixelData=None), Placed())


@trap
def structured_reports(here: TrapFolder) -> None:
    here.put("test-SR.dcm", here.real("test-SR.dcm"), Placed())
    here.put("reportsi.dcm", here.real("reportsi.dcm"), Placed())
    here.put("numbers empty", here.real("reportsi_with_empty_number_tags.dcm", number=-here.number), Placed())


@trap
def a_phoenix_report(here: TrapFolder) -> None:
    # Siemens' protocol of the scan: of a class of their own, without pixels, with a large private group.
    dataset = here.image(
        1,
        series=99,
        SOPClassUID="1.3.12.2.1107.5.9.1",
        ImageType=["ORIGINAL", "PRIMARY", "OTHER", "CSA REPORT"],
        Modality="SR",
        SeriesDescription="PhoenixZIPReport",
        PixelData=None,
        Rows=None,
        Columns=None,
    )
    block = dataset.private_block(0x0029, "SIEMENS CSA NON-IMAGE", create=True)
    block.add_new(0x10, "OB", b"SV10\4\3\2\1" + bytes(50_000))
    here.put("x.IMA", written(dataset), Placed())


@trap
def philips_files_without_extension(here: TrapFolder) -> None:
    real = pydicom.dcmread(io.BytesIO(here.real("dcm_qa_philips/In/Magdeburg_2014/fmri/201_EPI_asc_CLEAR_0001_25.dcm")))
    classes = {
        "XX_0001": "1.2.840.10008.5.1.4.1.1.66",
        "XX_0002": "1.3.46.670589.11.0.0.12.1",
        "PS_0003": "1.2.840.10008.5.1.4.1.1.11.1",
        "IM_0004": "1.2.840.10008.5.1.4.1.1.4",
    }
    for number, (name, sop_class) in enumerate(classes.items(), 1):
        real.SOPClassUID = real.file_meta.MediaStorageSOPClassUID = sop_class
        real.SOPInstanceUID = real.file_meta.MediaStorageSOPInstanceUID = world_uid(here.number, 7, 7, number)
        if number == 1:
            real.pop("PixelData")
        stream = io.BytesIO()
        pydicom.dcmwrite(stream, real)
        here.put(f"DICOM/{name}", stream.getvalue(), Placed())


@trap
def objects_that_are_no_images(here: TrapFolder) -> None:
    classes = {
        "key object selection": "1.2.840.10008.5.1.4.1.1.88.59",
        "encapsulated PDF": "1.2.840.10008.5.1.4.1.1.104.1",
        "spectroscopy": "1.2.840.10008.5.1.4.1.1.4.2",
        "presentation state": "1.2.840.10008.5.1.4.1.1.11.1",
        "a class of nobody": "1.2.3.4.5.6.7.8.9",
        "no class": "",
    }
    for number, (name, sop_class) in enumerate(classes.items(), 1):
        here.put(name, here.image_bytes(number, SOPClassUID=sop_class, PixelData=None), Placed())
    for name in ("rtplan.dcm", "rtdose_1frame.dcm", "rtstruct.dcm", "waveform_ecg.dcm", "liver_1frame.dcm"):
        here.put(name, here.real(name), Placed())


@trap
def enhanced_beside_classic(here: TrapFolder) -> None:
    # One measurement exported twice into one session: as one file for all frames, and as one for each.
    xa = "dcm_qa_stc/In/Siemens/XA10/6_REST1_w_SMS_PF7-8/6_5.dcm"
    enhanced = pydicom.dcmread(io.BytesIO(here.real(xa)))
    here.put("enhanced.dcm", here.real(xa), Placed())
    shared = {keyword: enhanced.get(keyword) for keyword in ("StudyInstanceUID", "PatientID", "StudyDate")}
    for number in (1, 2, 3):
        content = here.image_bytes(number, SeriesDescription=enhanced.SeriesDescription, **shared)
        here.put(f"classic {number}.dcm", content, Placed())
    here.apart.append((b"enhanced.dcm", b"classic 1.dcm"))
    here.together.append((b"classic 1.dcm", b"classic 2.dcm", b"classic 3.dcm"))


# Identity: what is the same, and what only looks so.


@trap
def the_same_bytes_again(here: TrapFolder) -> None:
    content = here.image_bytes(1)
    here.put("a.dcm", content, Placed())
    here.put("b/a.dcm", content, Duplicate(of=b"a.dcm"))
    here.put("c/deep/within", content, Duplicate(of=b"a.dcm"))


@trap
def the_same_uid_with_another_header(here: TrapFolder) -> None:
    here.put("a.dcm", here.image_bytes(1), Conflict(differs="header"))
    here.put("b.dcm", here.image_bytes(1, PatientName="Corrected^Name"), Conflict(differs="header"))


@trap
def the_same_uid_with_another_meta_header(here: TrapFolder) -> None:
    # A station that stores an image writes its own name into the meta header, and nothing else changes.
    here.put("a.dcm", here.image_bytes(1), Conflict(differs="header"))
    content = here.image_bytes(1)
    body = content[_data_set(content) :]
    name = Leaf(tag=0x00020013, vr="SH", value=b"ANOTHER STATION ")
    here.put("b.dcm", write_meta(ExplicitVRLittleEndian, more=[name]) + body, Conflict(differs="header"))


@trap
def the_same_uid_with_other_pixels(here: TrapFolder) -> None:
    here.put("a.dcm", here.image_bytes(1), Conflict(differs="pixel-data"))
    other = np.arange(64, dtype="<u2")[::-1].tobytes()
    here.put("b.dcm", here.image_bytes(1, PixelData=other), Conflict(differs="pixel-data"))


@trap
def the_same_uid_twice_with_a_copy_of_each(here: TrapFolder) -> None:
    one, other = here.image_bytes(1), here.image_bytes(1, StudyID="2")
    here.put("a.dcm", one, Conflict(differs="header"))
    here.put("b.dcm", other, Conflict(differs="header"))
    here.put("c.dcm", one, Duplicate(of=b"a.dcm"))
    here.put("d.dcm", other, Duplicate(of=b"b.dcm"))


@trap
def the_same_uid_in_other_series_studies_and_patients(here: TrapFolder) -> None:
    uid = here.image(1).SOPInstanceUID
    here.put("a.dcm", here.image_bytes(1), Conflict(differs="header"))
    here.put("b.dcm", here.image_bytes(1, SeriesInstanceUID=world_uid(here.number, 1, 2)), Conflict(differs="header"))
    elsewhere = {"StudyInstanceUID": world_uid(here.number, 2), "SOPInstanceUID": uid, "PatientID": "ELSE"}
    here.put("c.dcm", here.image_bytes(1, **elsewhere), Conflict(differs="header"))


@trap
def the_same_uid_padded_otherwise(here: TrapFolder) -> None:
    # A NUL fills a UID of odd length (PS3.5 9.1); some writers put a space, which other readers take for a part of it.
    instance = next(number for number in (1, 10) if len(here.image(number).SOPInstanceUID) & 1)
    content = here.image_bytes(instance)
    uid = here.image(instance).SOPInstanceUID.encode()
    here.put("a.dcm", content, Conflict(differs="header"))
    here.put("b.dcm", content.replace(uid + b"\0", uid + b" "), Conflict(differs="header"))


@trap
def recompressed_as_rle(here: TrapFolder) -> None:
    here.put("a.dcm", here.image_bytes(1, **LARGE), Conflict(differs="transfer-syntax"))
    here.put("b.dcm", compressed(here.image(1, **LARGE), RLELossless), Conflict(differs="transfer-syntax"))


@trap
def recompressed_as_jpeg_ls(here: TrapFolder) -> None:
    here.put("a.dcm", here.image_bytes(1, **LARGE), Conflict(differs="transfer-syntax"))
    here.put("b.dcm", compressed(here.image(1, **LARGE), JPEGLSLossless), Conflict(differs="transfer-syntax"))


@trap
def recompressed_as_jpeg_2000(here: TrapFolder) -> None:
    here.put("a.dcm", here.image_bytes(1, **LARGE), Conflict(differs="transfer-syntax"))
    here.put("b.dcm", compressed(here.image(1, **LARGE), JPEG2000Lossless), Conflict(differs="transfer-syntax"))


@trap
def recompressed_with_loss(here: TrapFolder) -> None:
    here.put("a.dcm", here.image_bytes(1, **LARGE), Conflict(differs="transfer-syntax-lossy"))
    lossy = compressed(here.image(1, **LARGE), JPEGLSNearLossless, jls_error=3)
    here.put("b.dcm", lossy, Conflict(differs="transfer-syntax-lossy"))


@trap
def recompressed_and_damaged(here: TrapFolder) -> None:
    # What cannot be decoded cannot be compared, and must not be called equal.
    here.put("a.dcm", here.image_bytes(1, **LARGE), Conflict(differs="transfer-syntax-unverified"))
    content = compressed(here.image(1, **LARGE), JPEG2000Lossless)
    begin = content.index(b"\xff\x4f\xff\x51")
    damaged = content[: begin + 4] + bytes(60) + content[begin + 64 :]
    here.put("b.dcm", damaged, Conflict(differs="transfer-syntax-unverified"))


@trap
def transferred_implicit_and_explicit(here: TrapFolder) -> None:
    here.put("a.dcm", here.image_bytes(1), Conflict(differs="transfer-syntax"))
    implicit = written(here.image(1), transfer_syntax=ImplicitVRLittleEndian)
    here.put("b.dcm", implicit, Conflict(differs="transfer-syntax"))


@trap
def transferred_in_big_endian(here: TrapFolder) -> None:
    here.put("a.dcm", here.image_bytes(1), Conflict(differs="transfer-syntax"))
    big = written(here.image(1), transfer_syntax=ExplicitVRBigEndian)
    here.put("b.dcm", big, Conflict(differs="transfer-syntax"))


@trap
def transferred_deflated(here: TrapFolder) -> None:
    here.put("a.dcm", here.image_bytes(1), Conflict(differs="transfer-syntax"))
    deflated = written(here.image(1), transfer_syntax=DeflatedExplicitVRLittleEndian)
    here.put("b.dcm", deflated, Conflict(differs="transfer-syntax"))


@trap
def one_real_image_in_every_syntax(here: TrapFolder) -> None:
    # pydicom's MR_small and its own copies of it; each is another content and all of them stay.
    for name in ("", "_RLE", "_jp2klossless", "_jpeg_ls_lossless"):
        here.put(f"MR_small{name}.dcm", here.real(f"MR_small{name}.dcm"), Conflict(differs="transfer-syntax"))


@trap
def one_instance_number_for_several_images(here: TrapFolder) -> None:
    # Echoes of a field map, or volumes of a diffusion series.
    for number in range(1, 6):
        content = here.image_bytes(number, InstanceNumber="1", EchoNumbers=str(number))
        here.put(f"{number}.dcm", content, Placed())
    here.together.append(tuple(f"{number}.dcm".encode() for number in range(1, 6)))


@trap
def one_description_for_several_series(here: TrapFolder) -> None:
    for number in (1, 2):
        overrides = {"SeriesNumber": "12", "SeriesDescription": "dti", "ProtocolName": "dti", "SeriesTime": "080000"}
        here.put(f"series {number}", here.image_bytes(1, series=number, **overrides), Placed())
    here.apart.append((b"series 1", b"series 2"))


@trap
def patients_that_differ_in_case(here: TrapFolder) -> None:
    for study, patient in enumerate(["trap doe", "TRAP DOE", "Trap Doe"], 1):
        overrides = {"PatientID": patient, "PatientName": "Doe^Jo", "StudyDate": "20010203"}
        here.put(patient, here.image_bytes(1, study=study, **overrides), Placed())
    here.apart.append((b"trap doe", b"TRAP DOE", b"Trap Doe"))


@trap
def several_studies_in_one_visit(here: TrapFolder) -> None:
    # A scanner restart gives one visit a second DICOM study.
    for study, clock in ((1, "080000"), (2, "091500")):
        times = dict.fromkeys(("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime"), clock)
        days = dict.fromkeys(("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"), "20050607")
        here.put(f"{study}.dcm", here.image_bytes(1, study=study, **times, **days), Placed(below=("2005-06-07",)))


@trap
def a_series_over_two_days(here: TrapFolder) -> None:
    for number, day in ((1, "20040504"), (2, "20040504"), (3, "20040505")):
        content = here.image_bytes(number, StudyDate="20040504", AcquisitionDate=day, ContentDate=day)
        here.put(f"{number}.dcm", content, Placed())
    here.together.append((b"1.dcm", b"2.dcm", b"3.dcm"))


@trap
def a_study_past_midnight(here: TrapFolder) -> None:
    # Its second series was begun on the next day, and some scanners write that as the study's date as well.
    late = {"StudyDate": "20030405", "SeriesDate": "20030405", "AcquisitionDate": "20030405", "ContentDate": "20030405"}
    clock = dict.fromkeys(("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime"), "235500")
    here.put("before.dcm", here.image_bytes(1, **late, **clock), Placed(below=("2003-04-05",)))
    early = dict.fromkeys(late, "20030406") | {"StudyDate": "20030405"}
    here.put("after.dcm", here.image_bytes(1, series=2, **early, StudyTime="235500"), Placed(below=("2003-04-05",)))


@trap
def dates_that_are_none(here: TrapFolder) -> None:
    # Written in the way of ACR-NEMA, impossible, or no date at all.
    days = {
        b"2003.04.05": ("2003-04-05",),
        b"20030231": (),
        b"00000000": (),
        b"today": (),
        b"2003": (),
        b"20030405101112": (),
    }
    for study, (day, below) in enumerate(days.items(), 1):
        content = here.image_bytes(1, study=study, StudyDate="19990909")
        here.put(day, with_value(content, 0x00080020, "DA", b"19990909", day), Placed(below=below))


# What headers say.


@trap
def hostile_values(here: TrapFolder) -> None:
    values = [
        "../../../escape",
        "/etc/passwd",
        "..",
        ".",
        "CON",
        "nul.txt",
        "trailing...",
        "trailing   ",
        "-rf",
        "a\0b",
        "a\nb",
        "C:\\Windows",
        "x" * 200,
        "\u202egnp.dcm",
        "\ufeff\u200b",
        "{patient}",
        "{0.__class__}",
        "%(x)s",
        "$HOME",
        "~root",
        "😀" * 60,
        "é" * 200,
        "",
        " ",
        "^^^^",
    ]
    for number, value in enumerate(values, 1):
        overrides = dict.fromkeys(
            ("PatientID", "SeriesDescription", "ProtocolName", "StudyDescription", "StudyID"), value
        )
        content = here.image_bytes(1, study=number, **overrides, PatientName=value.replace("\\", "^"))
        here.put(f"{number}.dcm", content, Placed())


@trap
def a_nul_between_two_values(here: TrapFolder) -> None:
    # Two patients, unless somebody joins the values with a NUL and takes the result for what they are.
    for name, patient, spoken in (("a.dcm", b"A", b"B\0C"), ("b.dcm", b"A\0B", b"C")):
        content = here.image_bytes(
            1 + (name == "b.dcm"), PatientID="PLACEHOLDER!", PatientName="PLACE^HOLDER", SeriesTime="080000"
        )
        content = with_value(content, 0x00100020, "LO", b"PLACEHOLDER!", patient)
        here.put(name, with_value(content, 0x00100010, "PN", b"PLACE^HOLDER", spoken), Placed())
    here.apart.append((b"a.dcm", b"b.dcm"))


@trap
def hostile_uids(here: TrapFolder) -> None:
    # UIDs are no names of folders: whoever makes them some anyway leaves the tree.
    values = [b"../../../../etc/passwd", b"/", b"a/b", b"1.2.3\\1.2.4", b"x" * 100, b"1..2", b"\xe9"]
    for study, value in enumerate(values, 1):
        dataset = here.image(1, study=study)
        content = written(dataset)
        uids = {
            0x00080018: dataset.SOPInstanceUID,
            0x0020000D: dataset.StudyInstanceUID,
            0x0020000E: dataset.SeriesInstanceUID,
        }
        for tag, uid in uids.items():
            content = with_value(content, tag, "UI", uid.encode("ascii"), value)
        here.put(f"{study}.dcm", content, Placed())


CHARACTER_SETS = {
    "latin 1": ("ISO_IR 100", "Müßig", "Müßig".encode("latin-1")),
    "latin 2": ("ISO_IR 101", "Łódź", "Łódź".encode("iso8859-2")),
    "cyrillic": ("ISO_IR 144", "Люкceмбypг", "Люкceмбypг".encode("iso8859-5")),
    "arabic": ("ISO_IR 127", "قباني", "قباني".encode("iso8859-6")),
    "greek": ("ISO_IR 126", "Διονυσιος", "Διονυσιος".encode("iso8859-7")),
    "hebrew": ("ISO_IR 138", "שרון", "שרון".encode("iso8859-8")),
    "thai": ("ISO_IR 166", "นามสกุล", "นามสกุล".encode("tis-620")),
    "katakana": ("ISO_IR 13", "ﾔﾏﾀﾞ", "ﾔﾏﾀﾞ".encode("shift_jis")),
    "japanese": ("\\ISO 2022 IR 87", "山田", b"\x1b$B;3ED\x1b(B"),
    "supplementary kanji": ("\\ISO 2022 IR 159", "龔", b"\x1b$(Dm\\\x1b(B"),
    "korean": ("\\ISO 2022 IR 149", "홍길동", b"\x1b$)C" + "홍길동".encode("euc_kr")),
    "chinese": ("\\ISO 2022 IR 58", "张三", b"\x1b$)A" + "张三".encode("gb2312")),
    "gb18030": ("GB18030", "王小东", "王小东".encode("gb18030")),
    "gbk": ("GBK", "王小东", "王小东".encode("gbk")),
    "utf-8": ("ISO_IR 192", "Wang 王 Люк", "Wang 王 Люк".encode()),
    "mixed": (
        "ISO 2022 IR 100\\ISO 2022 IR 144\\ISO 2022 IR 87",
        "Müßig Люк 山田",
        "Müßig ".encode("latin-1") + b"\x1b-L" + "Люк".encode("iso8859-5") + b" \x1b$B;3ED\x1b(B",
    ),
}
"""Name to Specific Character Set, a patient's ID, and its bytes (PS3.3 C.12.1.1.2; PS3.5 annexes H, I, J and K)."""


@trap
def character_sets(here: TrapFolder) -> None:
    for study, (name, (sets, patient, raw)) in enumerate(CHARACTER_SETS.items(), 1):
        content = here.image_bytes(1, study=study, PatientID="PLACEHOLDER!", PatientName="")
        content = with_value(content, 0x00100020, "LO", b"PLACEHOLDER!", raw)
        content = with_value(content, 0x00080005, "CS", b"ISO_IR 192", sets.encode("ascii"))
        # Half-width letters may be shown at their full width.
        below = () if name == "katakana" else tuple(patient.split())
        here.put(f"{name}.dcm", content, Placed(below=below))


@trap
def character_sets_nobody_knows(here: TrapFolder) -> None:
    terms = [b"ISO_IR 999", b"KLINGON", b"utf8", b"\\\\\\", b"ISO 2022 IR 87\\nonsense", b"\xff\xfe"]
    for study, term in enumerate(terms, 1):
        content = here.image_bytes(1, study=study, PatientName="Plain^Name")
        content = with_value(content, 0x00080005, "CS", b"ISO_IR 192", term)
        here.put(f"{study}.dcm", content, Placed(below=(f"SYNWORLD{here.number:04d}",)))


@trap
def text_in_another_set_than_it_says(here: TrapFolder) -> None:
    # Most often nothing is said and Latin 1 or Shift JIS is written.
    values = ["Müßig".encode("latin-1"), "山田".encode("shift_jis"), "Müßig".encode(), b"\x1b$Bx"]
    for study, value in enumerate(values, 1):
        content = here.image_bytes(1, study=study, SpecificCharacterSet=None, PatientID="PLACEHOLDER!")
        here.put(f"{study}.dcm", with_value(content, 0x00100020, "LO", b"PLACEHOLDER!", value), Placed())


@trap
def names_that_fold_together(here: TrapFolder) -> None:
    # Different patients for DICOM, and one folder for a file system that composes or folds.
    patients = [
        "Zo\u00eb",
        "Zoe\u0308",
        "ZO\u00cb",
        "stra\u00dfe",
        "STRASSE",
        "\ufb01x",
        "fix",
        "\u212b",
        "\u00c5",
        "a/b",
        "a_b",
        "a:b",
    ]
    names = []
    for study, patient in enumerate(patients, 1):
        overrides = {"PatientID": patient, "PatientName": patient, "StudyDate": "20010203"}
        here.put(f"{study}.dcm", here.image_bytes(1, study=study, **overrides), Placed())
        names.append(f"{study}.dcm".encode())
    here.apart.append(tuple(names))


@trap
def several_values_where_one_belongs(here: TrapFolder) -> None:
    # Two of everything: patients, dates, descriptions and numbers.
    values = {
        "PatientID": "ONE\\TWO",
        "StudyDate": ["20010101", "20020202"],
        "SeriesNumber": ["1", "2"],
        "InstanceNumber": ["1", "2"],
        "SeriesDescription": "one\\two",
        "Modality": ["MR", "CT"],
        "ProtocolName": "one\\two\\three",
    }
    here.put("x.dcm", here.image_bytes(1, **values), Placed())
    here.put("y.dcm", here.image_bytes(2, **values), Placed())
    here.together.append((b"x.dcm", b"y.dcm"))


# Containers.


@trap
def gzipped_images(here: TrapFolder) -> None:
    # Packed in every way that gzip unpacks: in pieces (RFC 1952 2.2), with a name inside, with zeros behind.
    one, two, three, four, five = (here.image_bytes(number) for number in range(1, 6))
    here.put("x.dcm.gz", gzipped(one), Placed(), holds=one)
    here.put("no extension", gzipped(two), Placed(), holds=two)
    here.put("in pieces.gz", gzipped(three[:500]) + gzipped(three[500:]), Placed(), holds=three)
    plain = gzipped(four)
    named = plain[:3] + b"\x08" + plain[4:10] + b"../../escape.dcm\0" + plain[10:]
    here.put("with a name inside.gz", named, Placed(), holds=four)
    here.put("zeros behind.gz", gzipped(five) + bytes(512), Placed(), holds=five)
    here.put("y.dcm.gz", gzipped(one), Duplicate(of=b"x.dcm.gz"), holds=one)
    here.put("y.dcm", one, Duplicate(of=b"x.dcm.gz"))


@trap
def damaged_gz(here: TrapFolder) -> None:
    packed = gzipped(here.image_bytes(1))
    here.put("cut.dcm.gz", packed[:-20], Rejected(reason="archive-damaged"))
    here.put("checksum.dcm.gz", packed[:-8] + bytes(8), Rejected(reason="archive-damaged"))
    here.put("bytes.dcm.gz", packed[:50] + b"\xff" * 30 + packed[80:], Rejected(reason="archive-damaged"))
    here.put("header alone.gz", packed[:10], Rejected(reason="archive-damaged"))


@trap
def bzip2_and_xz_of_one_file(here: TrapFolder) -> None:
    for number, (name, pack) in enumerate({"x.dcm.bz2": bz2.compress, "x.dcm.xz": lzma.compress}.items(), 1):
        content = here.image_bytes(number)
        here.put(name, pack(content), Placed(), holds=content)


@trap
def zip_archives(here: TrapFolder) -> None:
    methods = {"stored": 0, "deflated": 8, "bzip2": 12, "lzma": 14}
    for number, (name, method) in enumerate(methods.items(), 1):
        members = {
            "patient/1.dcm": (here.image_bytes(number), Placed()),
            "patient/README": (f"text {number}".encode(), Rejected(reason="not-dicom")),
        }
        content = zipped({member: inner for member, (inner, _) in members.items()}, method=method)
        here.put_archive(f"{name}.zip", content, members)


@trap
def a_zip_that_says_less_than_it_is(here: TrapFolder) -> None:
    # Called like an image; and one written to a pipe, with sizes behind the data.
    members = {"1.dcm": (here.image_bytes(1), Placed())}
    here.put_archive("export.dcm", zipped({"1.dcm": here.image_bytes(1)}), members)

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: object) -> int:
            raise io.UnsupportedOperation

        def tell(self) -> int:
            raise io.UnsupportedOperation

    stream = Pipe()
    with zipfile.ZipFile(stream, "w", 8) as archive:
        archive.writestr("2.dcm", here.image_bytes(2))
    here.put_archive("streamed.zip", stream.getvalue(), {"2.dcm": (here.image_bytes(2), Placed())})


@trap
def tar_archives(here: TrapFolder) -> None:
    forms = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
    for number, (name, form) in enumerate(forms.items(), 1):
        long = "" if name == "ustar" else "/".join(["a folder with a long name"] * 9) + "/é/"
        members = {
            f"{long}1.dcm": (here.image_bytes(number), Placed()),
            "2": (name.encode(), Rejected(reason="not-dicom")),
        }
        content = tarred({member: inner for member, (inner, _) in members.items()}, form=form)
        here.put_archive(f"{name}.tar", content, members)


@trap
def compressed_tar_archives(here: TrapFolder) -> None:
    packers = {
        "x.tar.gz": gzipped,
        "x.tgz": gzipped,
        "x.tar.bz2": bz2.compress,
        "x.tar.xz": lzma.compress,
        "x": gzipped,
    }
    for number, (name, pack) in enumerate(packers.items(), 1):
        members = {
            "in/1.dcm": (here.image_bytes(number), Placed()),
            "in/notes": (f"text {number}".encode(), Rejected(reason="not-dicom")),
        }
        content = pack(tarred({member: inner for member, (inner, _) in members.items()}))
        here.put_archive(name, content, members)


@trap
def archives_in_archives(here: TrapFolder) -> None:
    inner = zipped({"1.dcm": here.image_bytes(1)})
    here.put("zip.zip", zipped({"inner.zip": inner, "2.dcm": here.image_bytes(2)}), Opened())
    here.note("zip.zip!/inner.zip", with_digest(Opened(), inner))
    here.note("zip.zip!/inner.zip!/1.dcm", with_digest(Placed(), here.image_bytes(1)))
    here.note("zip.zip!/2.dcm", with_digest(Placed(), here.image_bytes(2)))
    here.put("gz.tar", tarred({"3.dcm.gz": gzipped(here.image_bytes(3))}), Opened())
    here.note("gz.tar!/3.dcm.gz", with_digest(Placed(), here.image_bytes(3)))
    inner = gzipped(tarred({"4.dcm": here.image_bytes(4)}))
    here.put("tgz.zip", zipped({"x.tar.gz": inner}), Opened())
    here.note("tgz.zip!/x.tar.gz", with_digest(Opened(), inner))
    here.note("tgz.zip!/x.tar.gz!/4.dcm", with_digest(Placed(), here.image_bytes(4)))


@trap
def archives_too_deep(here: TrapFolder) -> None:
    inmost = zipped({"1.dcm": here.image_bytes(1)})
    inner = zipped({"c.zip": inmost, "2.dcm": here.image_bytes(2)})
    here.put("a.zip", zipped({"b.zip": inner}), Opened())
    here.note("a.zip!/b.zip", with_digest(Opened(), inner))
    here.note("a.zip!/b.zip!/c.zip", with_digest(Rejected(reason="archive-nested"), inmost))
    here.note("a.zip!/b.zip!/2.dcm", with_digest(Placed(), here.image_bytes(2)))


@trap
def bombs(here: TrapFolder) -> None:
    refused = Rejected(reason="archive-limit")
    noise = np.random.default_rng(1).bytes(MEMBER_BYTES - 1)
    here.put("a large file.zip", zipped({"x": noise + b"more"}), refused)
    here.put("a large file.gz", gzipped(noise + b"more"), refused)
    here.put("a large file.xz", lzma.compress(noise + b"more", preset=0), refused)
    here.put("large together.zip", zipped({str(number): noise for number in range(4)}, method=0), refused)
    here.put("large together.tar", tarred({str(number): noise for number in range(4)}), refused)
    here.put("many files.zip", zipped({f"{number}.dcm": b"x" for number in range(MEMBERS + 1)}), refused)
    here.put("many files.tar.gz", gzipped(tarred({f"{number}.dcm": b"x" for number in range(MEMBERS + 1)})), refused)
    here.put("zeros.zip", zipped({"x.dcm": bytes(MEMBER_BYTES - 1)}), refused)
    here.put("zeros.dcm.gz", gzipped(bytes(MEMBER_BYTES - 1)), refused)
    here.put("zeros.bz2", bz2.compress(bytes(MEMBER_BYTES - 1)), refused)
    image = {"1.dcm": here.image_bytes(1)}
    here.put("with an image.zip", zipped(image | {"x": noise + b"more"}), refused)
    lying = zipped({"x": bytes(10 * MEMBER_BYTES)}).replace(
        struct.pack("<L", 10 * MEMBER_BYTES), struct.pack("<L", 100)
    )
    here.put("says it is small.zip", lying, Rejected(reason="archive-damaged"))
    here.note("says it is small.zip!/x", Rejected(reason="archive-damaged"))


@trap
def encrypted_zip(here: TrapFolder) -> None:
    # Bit 0 of the general purpose flag says so (APPNOTE 4.4.4); the twelve bytes of a key's header come first.
    content = zipped({"1.dcm": here.image_bytes(1), "2.dcm": here.image_bytes(2)}, method=0)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        local = archive.getinfo("1.dcm").header_offset
    central = content.index(b"PK\x01\x02")
    raw = bytearray(content)
    raw[local + 6] |= 1
    raw[central + 8] |= 1
    here.put("x.zip", bytes(raw), Opened())
    here.note("x.zip!/1.dcm", Rejected(reason="archive-encrypted"))
    here.note("x.zip!/2.dcm", with_digest(Placed(), here.image_bytes(2)))


@trap
def damaged_archives(here: TrapFolder) -> None:
    # What is whole is taken; what is not is told, of the file in the archive and of the archive.
    damaged = Rejected(reason="archive-damaged")
    images = {f"{number}.dcm": here.image_bytes(number) for number in range(1, 4)}
    content = zipped(images, method=0)
    place = content.index(images["2.dcm"]) + 300
    broken = content[:place] + b"\xff\x00\xff" + content[place + 3 :]
    whole = {name: (inner, Placed()) for name, inner in images.items() if name != "2.dcm"}
    here.put_archive("checksum.zip", broken, whole, fate=damaged)
    here.note("checksum.zip!/2.dcm", damaged)
    here.put("no directory.zip", zipped({"4.dcm": here.image_bytes(4)})[:600], damaged)
    here.note("no directory.zip!/4.dcm", damaged)
    unknown = bytearray(zipped({"8.dcm": here.image_bytes(8), "9.dcm": here.image_bytes(9)}, method=0))
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        unknown[unknown.index(signature) + offset] = 9  # Deflate64 (APPNOTE 4.4.5), which no Python unpacks
    whole = {"9.dcm": (here.image_bytes(9), Placed())}
    here.put_archive("a method nobody knows.zip", bytes(unknown), whole, fate=damaged)
    here.note("a method nobody knows.zip!/8.dcm", damaged)
    images = {f"{number}.dcm": here.image_bytes(number) for number in (5, 6)}
    tar = tarred(images)
    first = {"5.dcm": (images["5.dcm"], Placed())}
    here.put_archive("cut.tar", tar[: tar.index(images["6.dcm"]) + 100], first, fate=damaged)
    here.note("cut.tar!/6.dcm", damaged)


@trap
def cut_tar_gz(here: TrapFolder) -> None:
    images = {f"{number}.dcm": here.image_bytes(number) for number in (1, 2)}
    noise = np.random.default_rng(2).bytes(200_000)
    content = gzipped(tarred({"1.dcm": images["1.dcm"], "noise": noise, "2.dcm": images["2.dcm"]}))
    first = {"1.dcm": (images["1.dcm"], Placed())}
    damaged = Rejected(reason="archive-damaged")
    here.put_archive("x.tar.gz", content[:150_000], first, fate=damaged)
    here.note("x.tar.gz!/noise", damaged)


@trap
def archives_with_links_and_devices(here: TrapFolder) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        entry = tarfile.TarInfo("1.dcm")
        entry.size = len(here.image_bytes(1))
        archive.addfile(entry, io.BytesIO(here.image_bytes(1)))
        kinds = {
            "link": tarfile.SYMTYPE,
            "pipe": tarfile.FIFOTYPE,
            "device": tarfile.CHRTYPE,
            "folder": tarfile.DIRTYPE,
        }
        for name, kind in kinds.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "/etc/passwd" if name == "link" else ""
            archive.addfile(entry)
    here.put_archive("x.tar", stream.getvalue(), {"1.dcm": (here.image_bytes(1), Placed())})
    here.note("x.tar!/link", Rejected(reason="symlink"))
    here.note("x.tar!/pipe", Rejected(reason="special-file"))
    here.note("x.tar!/device", Rejected(reason="special-file"))


@trap
def members_that_want_out(here: TrapFolder) -> None:
    names = ["../../escape.dcm", "/tmp/scanward-escape.dcm", "a/../../b.dcm", "C:\\escape.dcm", "-rf", "./1.dcm"]
    members = {name: here.image_bytes(number) for number, name in enumerate(names, 1)}
    here.put("x.tar", tarred(members), Opened())
    more = {name: here.image_bytes(number) for number, name in enumerate(names[:3], 11)}
    here.put("x.zip", zipped(more), Opened())
    for content in (*members.values(), *more.values()):
        here.also_placed(content)


@trap
def one_name_twice_in_an_archive(here: TrapFolder) -> None:
    # An archive that was appended to; each reader has its own idea which of the two counts, so both do.
    one, other = here.image_bytes(1), here.image_bytes(2)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for content in (one, other):
            entry = tarfile.TarInfo("x.dcm")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    here.put("x.tar", stream.getvalue(), Opened())
    here.also_placed(one)
    here.also_placed(other)


@trap
def a_folder_called_like_a_member(here: TrapFolder) -> None:
    # So that two files have one path in the lists.
    here.put("a.zip", zipped({"x.dcm": here.image_bytes(1)}), Opened())
    here.also_placed(here.image_bytes(1))
    here.put("a.zip!/x.dcm", here.image_bytes(2), Placed())


@trap
def the_same_bytes_in_an_archive(here: TrapFolder) -> None:
    content = here.image_bytes(1)
    here.put("a.dcm", content, Placed())
    here.put_archive("b.zip", zipped({"a.dcm": content}), {"a.dcm": (content, Duplicate(of=b"a.dcm"))})
    here.put_archive("c.tar.gz", gzipped(tarred({"z.dcm": content})), {"z.dcm": (content, Duplicate(of=b"a.dcm"))})


@trap
def a_conflict_in_an_archive(here: TrapFolder) -> None:
    other = here.image_bytes(1, StudyID="other")
    here.put("a.dcm", here.image_bytes(1), Conflict(differs="header"))
    here.put_archive("b.zip", zipped({"a.dcm": other}), {"a.dcm": (other, Conflict(differs="header"))})


@trap
def archives_of_nothing(here: TrapFolder) -> None:
    here.put("x.zip", zipped({}), Rejected(reason="empty"))
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        entry = tarfile.TarInfo("folder")
        entry.type = tarfile.DIRTYPE
        archive.addfile(entry)
    here.put("x.tar", stream.getvalue(), Rejected(reason="empty"))
    here.put("x.gz", gzipped(b""), Rejected(reason="empty"))


@trap
def archives_of_odds_and_ends(here: TrapFolder) -> None:
    # A whole medium in an archive, with what computers leave behind.
    members = {
        "DICOMDIR": (here.real("dicomdirtests/DICOMDIR"), Rejected(reason="dicomdir")),
        "IMAGES/IM1": (here.image_bytes(1), Placed()),
        "__MACOSX/._IM1": (apple_double(), Rejected(reason="apple-double")),
        "empty": (b"", Rejected(reason="empty")),
        "IMAGES/cut": (here.image_bytes(2)[:200], Rejected(reason="header-damaged")),
        "IMAGES/implicit": (written(here.image(3), transfer_syntax=ImplicitVRLittleEndian), Placed()),
        "IMAGES/big": (written(here.image(4), transfer_syntax=ExplicitVRBigEndian), Placed()),
        "IMAGES/bare": (written(here.image(5), preamble=False, meta=False), Placed()),
    }
    content = {name: inner for name, (inner, _) in members.items()}
    here.put_archive("cd.zip", zipped(content), members)
