"""Read the heads of files: enough to place them and to tell what a series is, and no more.

All attributes of interest stand at or before (0020,0037), which on real scanner files lies within the first few
kilobytes, in front of the private groups that make headers large.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import stat
import warnings
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tasks.dicom.elements import Fetch, WalkError, pick, pick_and_stop
from tasks.dicom.normalise import open_data_set
from tasks.dicom.syntax import (
    MEDIA_STORAGE_DIRECTORY,
    MEDIA_STORAGE_SOP_CLASS,
    MEDIA_STORAGE_SOP_INSTANCE,
    TRANSFER_SYNTAX,
    DataSetStart,
    SyntaxRefusalError,
    needs_more,
    read_meta,
    read_start,
)
from tasks.dicom.text import SPECIFIC_CHARACTER_SET, decode_ascii, decode_text
from tasks.index.row import ROW_FIELDS, SHARED_FIELDS, Container, IndexRow, Reject, SharedHeader
from tasks.index.stranger import tell_stranger

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pydicom.dataset import FileDataset

SOP_CLASS = 0x00080016
SOP_INSTANCE = 0x00080018
STUDY_INSTANCE = 0x0020000D
SERIES_INSTANCE = 0x0020000E
MODALITY = 0x00080060
NUMBER_OF_FRAMES = 0x00280008

ASCII_ATTRIBUTES = {
    0x00080008: "image_type",
    SOP_CLASS: "sop_class_uid",
    SOP_INSTANCE: "sop_instance_uid",
    0x00080020: "study_date",
    0x00080021: "series_date",
    0x00080022: "acquisition_date",
    0x00080023: "content_date",
    0x0008002A: "acquisition_datetime",
    0x00080030: "study_time",
    0x00080031: "series_time",
    0x00080032: "acquisition_time",
    MODALITY: "modality",
    0x00100030: "patient_birth_date",
    0x00180081: "echo_time",
    0x00180086: "echo_numbers",
    STUDY_INSTANCE: "study_instance_uid",
    SERIES_INSTANCE: "series_instance_uid",
    0x00200011: "series_number",
    0x00200012: "acquisition_number",
    0x00200013: "instance_number",
    0x00200032: "image_position_patient",
    0x00200037: "image_orientation_patient",
}
"""Attributes whose VR has the default repertoire: tag to the field of `SharedHeader` or `IndexRow`."""

TEXT_ATTRIBUTES = {
    0x00080050: "accession_number",
    0x00080070: "manufacturer",
    0x00080080: "institution_name",
    0x00080090: "referring_physician_name",
    0x00081010: "station_name",
    0x00081030: "study_description",
    0x0008103E: "series_description",
    0x00081090: "manufacturer_model_name",
    0x00100010: "patient_name",
    0x00100020: "patient_id",
    0x00101000: "other_patient_ids",
    0x00180024: "sequence_name",
    0x00181000: "device_serial_number",
    0x00181030: "protocol_name",
    0x00200010: "study_id",
}
"""Attributes in the character sets of the data set: tag to the field of `SharedHeader`."""

LAST_TAG = 0x00200037
"""(0020,0037) Image Orientation (Patient), the highest tag of interest."""

WANTED = frozenset(ASCII_ATTRIBUTES) | frozenset(TEXT_ATTRIBUTES) | {SPECIFIC_CHARACTER_SET}

_STORAGE = "1.2.840.10008.5.1.4.1.1."
MULTI_FRAME_CLASSES = frozenset(
    _STORAGE + number
    for number in (
        *("2.1", "2.2", "3", "3.1", "4.1", "4.2", "4.3", "4.4", "5", "6.2", "6.3", "7.1", "7.2", "7.3", "7.4"),
        *("12.1", "12.1.1", "12.2", "12.2.1", "12.3", "13.1.1", "13.1.2", "13.1.3", "13.1.4", "13.1.5"),
        *("14.1", "14.2", "20", "30", "66.4", "66.7", "66.8", "77.1.1.1", "77.1.2.1", "77.1.4.1", "77.1.5.1"),
        *("77.1.5.2", "77.1.5.4", "77.1.5.5", "77.1.5.6", "77.1.5.7", "77.1.5.8", "77.1.6", "77.1.8", "77.1.9"),
        *("77.2", "128.1", "130", "481.1", "481.2", "481.23", "481.24", "601.2"),
    )
)
"""Classes whose files may hold several frames: the storage classes of PS3.4 table B.5-1, and retired ones of PS3.6
table A-1, with the module Multi-frame (PS3.3 section C.7.6.6) or Multi-frame Functional Groups (C.7.6.16)."""

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_FIRST_READ = 8192
_LARGE_READ = 1 << 20
_LARGEST_HEADER = 1 << 24
"""Bytes of a file that pydicom is given: it may take a second for each megabyte of what is no header."""

_NOTHING = 64
"""Bytes of zeros that no header holds where an element begins."""

_NO_LENGTH = 0xFFFFFFFF

_CUT = frozenset({"truncated", "trailing-bytes"})
"""What the walker says of a file that ends within its header, and of some others."""

_UIDS = (SOP_INSTANCE, STUDY_INSTANCE, SERIES_INSTANCE)

_TAGS = {field: tag for tag, field in (ASCII_ATTRIBUTES | TEXT_ATTRIBUTES).items()}
_SHARED_ATTRIBUTES = tuple(
    (field, _TAGS[field], _TAGS[field] in TEXT_ATTRIBUTES) for field in SHARED_FIELDS if field in _TAGS
)
_OWN_ATTRIBUTES = tuple((field, _TAGS[field]) for field in ROW_FIELDS if field in _TAGS)

_META_PICKED = (MEDIA_STORAGE_SOP_INSTANCE, TRANSFER_SYNTAX, MEDIA_STORAGE_SOP_CLASS)
_SHARED_PICKED = (SPECIFIC_CHARACTER_SET, *(tag for _, tag, _ in _SHARED_ATTRIBUTES))
_OWN_PICKED = tuple(tag for _, tag in _OWN_ATTRIBUTES)
_SHARED = slice(1, len(_META_PICKED) + len(_SHARED_PICKED))
"""Where shared values stand when one list after the other is taken; before and behind it are those of single files."""

_LAST_META_TAG = 0x0002FFFF

_STRIDE = _FIRST_READ + 64
"""From the window of one file to the next. Were it a power of two, the same place in all windows would fall into the
same few lines of the processor's cache, and the cursors of a series would drive each other out of it."""

_BEHIND = 16
"""Bytes behind the last file's, so that its end too can be read sixteen bytes at a time."""

_LONGEST_VALUE = 256
"""Files with longer values are read one by one, because the longest value of a tag takes its room for all files."""

_BATCH = 2048
"""Files that are read together: enough to make a step of all cursors cheap, few enough for sixteen megabytes."""


def read_headers(folder: bytes, paths: Sequence[bytes]) -> list[IndexRow | Reject | Container]:
    """Read the headers of many files, several times faster than one by one.

    Parameters
    ----------
    folder, paths
        The dump's folder, and the files below it. From a thousand at a time on they are read fastest.

    Returns
    -------
    list of IndexRow, Reject or Container
        What `read_header` says of each file, in the order of `paths`. Where plain headers say the same byte for byte,
        the rows share one `SharedHeader`.
    """
    return HeaderReader(folder).read(paths)


class HeaderReader:
    """Reads headers as `read_headers` does, and remembers those that files share from one call to the next."""

    def __init__(self, folder: bytes) -> None:
        self._folder = folder
        self._buffer = bytearray()
        self._known: dict[tuple[bytes, ...], SharedHeader | None] = {}

    def read(self, paths: Sequence[bytes]) -> list[IndexRow | Reject | Container]:
        """Read the headers of files."""
        room = min(len(paths), _BATCH) * _STRIDE + _BEHIND
        if len(self._buffer) < room:
            self._buffer = bytearray(room)
        outcomes: list[IndexRow | Reject | Container] = []
        for begin in range(0, len(paths), _BATCH):
            batch = paths[begin : begin + _BATCH]
            rows = _read_together(self._folder, batch, self._buffer, self._known)
            outcomes += [row or read_header(self._folder, path) for row, path in zip(rows, batch, strict=True)]
        return outcomes


def _read_together(
    folder: bytes, paths: Sequence[bytes], buffer: bytearray, known: dict[tuple[bytes, ...], SharedHeader | None]
) -> list[IndexRow | None]:
    """Read the files whose header is plain and lies in the first bytes; None stands for the others.

    `known` keeps each shared header by its raw values, and None by those of files that need a closer look.
    """
    # Loading numpy takes a tenth of a second, and on an unchanged dump no header is read.
    import numpy as np  # noqa: PLC0415

    from tasks.dicom.lockstep import gather_values, pick_many  # noqa: PLC0415

    windows = np.arange(len(paths)) * _STRIDE
    ends = windows + np.array(_fill(buffer, folder, paths))
    marks = np.frombuffer(buffer, dtype="<u4")[(windows + 128) // 4]
    starts = np.where(marks == int.from_bytes(b"DICM", "little"), windows + 132, ends)
    explicit = np.ones(len(paths), dtype=bool)
    meta = pick_many(buffer, starts, ends, explicit, wanted=_META_PICKED, last=_LAST_META_TAG)

    starts = ends.copy()
    (there,) = (meta.done & ((meta.end - meta.begin).max(axis=0) <= _LONGEST_VALUE)).nonzero()
    syntaxes = _cells(gather_values(buffer, meta.begin[1:2, there], meta.end[1:2, there])[0])
    forms: dict[bytes, DataSetStart | None] = {}
    for file, syntax in zip(there.tolist(), syntaxes, strict=True):
        if syntax not in forms:
            # Nothing but the syntax decides whether and how the data set is walked: the first file speaks for all.
            forms[syntax] = _plain_start(bytes(buffer[windows[file] : ends[file]]))
    written = [forms[syntax] for syntax in syntaxes]
    starts[there] = np.where([form is not None for form in written], meta.stop[there], ends[there])
    explicit[there] = [form is None or form.explicit for form in written]
    picked = _SHARED_PICKED + _OWN_PICKED
    found = pick_many(buffer, starts, ends, explicit, wanted=picked, last=LAST_TAG)

    begin = np.concatenate([meta.begin, found.begin])
    end = np.concatenate([meta.end, found.end])
    plain = found.done & ((end - begin).max(axis=0) <= _LONGEST_VALUE)
    for tag in _UIDS:
        plain &= found.begin[picked.index(tag)] > 0
    (files,) = plain.nonzero()
    begin, end = begin[:, files], end[:, files]
    columns = gather_values(buffer, begin, end)

    # Headers are told apart by their raw values; by the lengths as well, because values are filled up with zeros.
    lengths = np.ascontiguousarray((end - begin)[_SHARED].T, dtype=np.uint16).view(np.uint8)
    keys = _rows(np.concatenate([*columns[_SHARED], lengths], axis=1))
    headers: dict[bytes, SharedHeader | None] = {}
    for number, key in enumerate(keys):
        if key not in headers:
            bounds = zip(begin[_SHARED, number].tolist(), end[_SHARED, number].tolist(), strict=True)
            values = tuple(bytes(buffer[one:other]) for one, other in bounds)
            if values not in known:
                known[values] = _share(values)
            headers[key] = known[values]

    shared = [headers[key] for key in keys]
    meta_instances, instances, *texts = (
        [decode_ascii(value) for value in _cells(column)] for column in (columns[0], *columns[_SHARED.stop :])
    )
    instances = [instance or other for instance, other in zip(instances, meta_instances, strict=True)]
    frames: list[str | None] = [""] * len(files)
    for number, header in enumerate(shared):
        if header is not None and header.sop_class_uid in MULTI_FRAME_CLASSES:
            file = files[number]
            window = bytes(buffer[windows[file] : ends[file]])
            frames[number] = _frames_in(window, int(found.stop[file] - windows[file]), explicit=bool(explicit[file]))

    outcomes: list[IndexRow | None] = [None] * len(paths)
    rows = _fill_rows(map(paths.__getitem__, files.tolist()), shared, instances, *texts, frames)
    for file, row in zip(files.tolist(), rows, strict=True):
        if row.shared is not None and row.number_of_frames is not None:
            outcomes[file] = row
    return outcomes


def _fill_rows(*columns: Iterable[Any]) -> list[IndexRow]:
    """Make rows from columns in the order of the fields, a column at a time: it costs a third of the constructor."""
    fields = [list(column) for column in columns]
    rows = [object.__new__(IndexRow) for _ in fields[0]]
    for name, values in zip(("path", "shared", *ROW_FIELDS), fields, strict=True):
        # The class is frozen, but its slots can be set from outside; `deque` of no length just runs through.
        deque(map(getattr(IndexRow, name).__set__, rows, values), maxlen=0)
    return rows


def _frames_in(window: bytes, start: int, *, explicit: bool) -> str | None:
    """Read the number of frames from the first bytes of a file, or None if they do not tell it.

    `start` is where the walk to the last tag stopped.
    """
    fetch: Fetch = lambda offset, amount: window[offset : offset + amount]  # noqa: E731
    frames = (NUMBER_OF_FRAMES,)
    try:
        values, stop = pick_and_stop(
            fetch, len(window), start, explicit=explicit, wanted=frames, last=NUMBER_OF_FRAMES, head=window
        )
    except WalkError:
        return None
    return decode_ascii(values.get(NUMBER_OF_FRAMES, b"")) if stop < len(window) else None


def _rows(table: NDArray[np.uint8]) -> list[bytes]:
    """Return each row of a table of bytes."""
    size = table.shape[1]
    content = table.tobytes()
    return [content[place : place + size] for place in range(0, len(content), size)]


def _cells(column: NDArray[np.uint8]) -> list[bytes]:
    """Return each row of a table of bytes without the zeros at its end."""
    files, size = column.shape
    if not size:
        return [b""] * files
    cells: list[bytes] = column.copy().view(f"S{size}")[:, 0].tolist()
    return cells


def _fill(buffer: bytearray, folder: bytes, paths: Sequence[bytes]) -> list[int]:
    """Read the first bytes of each file, each into a window of its own; return how many, 0 where there is a fault."""
    sizes = []
    view = memoryview(buffer)
    prefix = folder + b"/"
    for begin, path in zip(itertools.count(0, _STRIDE), paths, strict=False):
        size = 0
        with contextlib.suppress(OSError):
            descriptor = os.open(prefix + path, _OPEN)
            try:
                # Without it the kernel fetches the image behind the header as well.
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
                size = os.readv(descriptor, (view[begin : begin + _FIRST_READ],))
            finally:
                os.close(descriptor)
        sizes.append(size)
    return sizes


def _plain_start(head: bytes) -> DataSetStart | None:
    try:
        return read_start(head)
    except SyntaxRefusalError:
        return None


def _share(values: tuple[bytes, ...]) -> SharedHeader | None:
    """Decode what files share, or return None for a directory; `values` are those of `_SHARED`."""
    syntax, meta_class, character_set, *picked = values
    if meta_class.rstrip(b"\0 ") == MEDIA_STORAGE_DIRECTORY.encode():
        return None
    return _decode_shared(
        picked,
        character_set=character_set,
        meta_class=meta_class,
        transfer_syntax=syntax.rstrip(b"\0 ").decode("ascii", "replace"),
        slow_path="",
    )


def read_header(dump: bytes, path: bytes) -> IndexRow | Reject | Container:
    """Read one file's header.

    Parameters
    ----------
    dump, path
        The dump's folder, and the file below it.

    Returns
    -------
    IndexRow, Reject or Container
        A reject says why, in a code; no fault of a single file is ever raised.
    """
    try:
        descriptor = os.open(dump + b"/" + path, _OPEN)
    except FileNotFoundError:
        return Reject(path=path, reason="vanished")
    except OSError:
        return Reject(path=path, reason="unreadable")
    try:
        return _read(descriptor, path)
    except OSError:
        return Reject(path=path, reason="unreadable")
    finally:
        os.close(descriptor)


def _read(descriptor: int, path: bytes) -> IndexRow | Reject | Container:
    head = os.read(descriptor, _FIRST_READ)
    if not head:
        ordinary = stat.S_ISREG(os.fstat(descriptor).st_mode)
        return Reject(path=path, reason="empty" if ordinary else "special-file")
    try:
        if needs_more(head):
            head = os.pread(descriptor, _LARGE_READ, 0)
        start = read_start(head)
        if start.meta.get(MEDIA_STORAGE_SOP_CLASS, b"").rstrip(b"\0 ") == MEDIA_STORAGE_DIRECTORY.encode():
            return Reject(path=path, reason="dicomdir")
        size = len(head) if len(head) < _FIRST_READ else os.fstat(descriptor).st_size
        fetch: Fetch = lambda offset, amount: os.pread(descriptor, amount, offset)  # noqa: E731
        values = _pick_wanted(fetch, size, start.offset, explicit=start.explicit, meta=start.meta, head=head)
    except SyntaxRefusalError as refusal:
        if refusal.reason == "not-dicom":
            return tell_stranger(head, path)
        if refusal.reason == "deflated":
            return _read_deflated(descriptor, path)
        if refusal.reason == "meta-damaged" and not any(head[132 : 132 + _NOTHING]):
            return Reject(path=path, reason="header-damaged")
        return _read_with_pydicom(descriptor, path, refusal.reason)
    except WalkError as fault:
        if not any(os.pread(descriptor, _NOTHING, fault.offset)):
            # pydicom would take each eight zeros for an element, to the end of the file.
            return Reject(path=path, reason="header-damaged")
        return _read_with_pydicom(descriptor, path, fault.reason)
    if not all(tag in values for tag in _UIDS):
        # Nothing but a full read tells whether they are absent or only out of order behind our last tag.
        return _read_with_pydicom(descriptor, path, "uid-missing")
    return _make_row(path, values, start.transfer_syntax, "", start.meta)


def _pick_wanted(
    fetch: Fetch, size: int, start: int, *, explicit: bool, meta: dict[int, bytes], head: bytes = b""
) -> dict[int, bytes]:
    """Pick the wanted values, and the number of frames where there may be several."""
    values, stop = pick_and_stop(fetch, size, start, explicit=explicit, wanted=WANTED, last=LAST_TAG, head=head)
    if _sop_class(values.get(SOP_CLASS, b""), meta.get(MEDIA_STORAGE_SOP_CLASS, b"")) in MULTI_FRAME_CLASSES:
        wanted = (NUMBER_OF_FRAMES,)
        values |= pick(fetch, size, stop, explicit=explicit, wanted=wanted, last=NUMBER_OF_FRAMES, head=head)
    return values


def _sop_class(value: bytes, meta: bytes) -> str:
    return decode_ascii(value) or decode_ascii(meta)


def _make_row(
    path: bytes, values: dict[int, bytes], transfer_syntax: str, slow_path: str, meta: dict[int, bytes]
) -> IndexRow:
    shared = _decode_shared(
        [values.get(tag, b"") for _, tag, _ in _SHARED_ATTRIBUTES],
        character_set=values.get(SPECIFIC_CHARACTER_SET, b""),
        meta_class=meta.get(MEDIA_STORAGE_SOP_CLASS, b""),
        transfer_syntax=transfer_syntax,
        slow_path=slow_path,
    )
    own = {field: decode_ascii(values.get(tag, b"")) for field, tag in _OWN_ATTRIBUTES}
    own["sop_instance_uid"] = own["sop_instance_uid"] or decode_ascii(meta.get(MEDIA_STORAGE_SOP_INSTANCE, b""))
    frames = decode_ascii(values.get(NUMBER_OF_FRAMES, b""))
    return IndexRow(path=path, shared=shared, number_of_frames=frames, **own)


def _decode_shared(
    values: Sequence[bytes], *, character_set: bytes, meta_class: bytes, transfer_syntax: str, slow_path: str
) -> SharedHeader:
    """Decode what a series shares; `values` in the order of `_SHARED_ATTRIBUTES`."""
    repertoire = decode_ascii(character_set)
    fields = {
        field: decode_text(value, repertoire) if is_text else decode_ascii(value)
        for (field, _, is_text), value in zip(_SHARED_ATTRIBUTES, values, strict=True)
    }
    fields["sop_class_uid"] = fields["sop_class_uid"] or decode_ascii(meta_class)
    return SharedHeader(transfer_syntax_uid=transfer_syntax, slow_path=slow_path, **fields)


def _read_deflated(descriptor: int, path: bytes) -> IndexRow | Reject:
    """Read a file whose data set is deflated; pydicom would inflate without a bound, however large it becomes."""
    source = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    try:
        meta = read_meta(source)
        data, start, reason = open_data_set(source)
        fetch: Fetch = lambda offset, amount: data[offset : offset + amount]  # noqa: E731
        values = _pick_wanted(fetch, len(data), start.offset, explicit=start.explicit, meta=meta.meta)
    except (SyntaxRefusalError, WalkError):
        return Reject(path=path, reason="header-damaged")
    return _make_row(path, values, meta.transfer_syntax, reason, meta.meta)


def _read_with_pydicom(descriptor: int, path: bytes, reason: str) -> IndexRow | Reject:
    """Read what the walker refuses; `reason` is why it did."""
    import pydicom  # noqa: PLC0415 - a fifth of a second that most runs never need

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stream = io.BytesIO(os.pread(descriptor, _LARGEST_HEADER, 0))
            dataset = pydicom.dcmread(stream, stop_before_pixels=True, force=True)
            syntax = str(dataset.file_meta.get("TransferSyntaxUID", ""))
            if str(dataset.file_meta.get("MediaStorageSOPClassUID", "")) == MEDIA_STORAGE_DIRECTORY:
                return Reject(path=path, reason="dicomdir")
            meta = {
                tag: str(dataset.file_meta[tag].value).encode("ascii", "replace")
                for tag in (MEDIA_STORAGE_SOP_CLASS, MEDIA_STORAGE_SOP_INSTANCE)
                if tag in dataset.file_meta
            }
            values = _raw_values(dataset, WANTED)
            if _sop_class(values.get(SOP_CLASS, b""), meta.get(MEDIA_STORAGE_SOP_CLASS, b"")) in MULTI_FRAME_CLASSES:
                values |= _raw_values(dataset, (NUMBER_OF_FRAMES,))
    except Exception:  # noqa: BLE001 - a damaged header makes pydicom raise anything, and its words may quote values
        return Reject(path=path, reason="not-dicom" if reason == "no-preamble" else "header-damaged")
    known = [tag for tag in (SOP_CLASS, *_UIDS, MODALITY) if values.get(tag)]
    if not len(dataset) or (reason in _CUT and not all(tag in values for tag in _UIDS)):
        return Reject(path=path, reason="header-damaged")
    # The walker found nothing wrong with a file whose UIDs are missing.
    if len(known) < {"no-preamble": 3, "uid-missing": 0}.get(reason, 1):
        return Reject(path=path, reason="not-dicom" if reason == "no-preamble" else "header-damaged")
    return _make_row(path, values, syntax, reason, meta)


def _raw_values(dataset: FileDataset, wanted: Iterable[int]) -> dict[int, bytes]:
    """Collect wanted raw values, as `pick` does; text bytes are the same in every byte order."""
    values: dict[int, bytes] = {}
    for tag in wanted:
        if tag not in dataset:
            continue
        element: Any = dataset.get_item(tag)
        value = element.value
        if isinstance(value, bytes):
            if len(value) < getattr(element, "length", 0) != _NO_LENGTH:
                # What is left of a name or a UID may be another's.
                if tag <= SERIES_INSTANCE:
                    raise EOFError
                continue
            values[tag] = value
        elif value:
            parts = [value] if isinstance(value, str) else list(value)
            values[tag] = "\\".join(str(part or "") for part in parts).encode("ascii", "replace")
    return values
