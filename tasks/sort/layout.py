"""Where a file belongs in the sorted tree: templates of names made of header values, safe on every file system.

A template is a path of folders with fields in braces, such as `{patient}/{visit_date}/{series_number:03}_{protocol}`.
A field that is missing is left out with the text before it; a name of which nothing is left says `unknown-` and the
field. What a field may be given as a format stands at `Field.kind`.
Values come from strangers: whatever they hold, a name never leaves the tree, and no system takes it for something else.
Fields that end in a hash name an identity, so that two things with equal names never merge.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from tasks.dicom.text import plain_name
from tasks.index.row import ROW_FIELDS
from tasks.sort.fields import FIELDS, Facts, Field, OwnValues
from tasks.sort.names import LONG_HASH, LONGEST_NAME, LONGEST_PART, pad_number, replace_unsafe, safe_part, short_hash
from tasks.sort.visit import patient_key

LAYOUT_VERSION = 3
"""Raised when the same template gives other names, so that the next run sorts again."""

UNKNOWN_PATIENT = "unknown-patient"

LONGEST_PATH = 1000
"""Bytes of a place in the tree; APFS and many tools take 1024 with what stands above the tree."""

DEEPEST = 8
"""Folders that a template may lay into each other."""

_SHORTEST_PART = 8
"""Bytes below which a value tells nothing any more."""

_SERIES_FOLDER = "{series_number:03}_{series_description}_{series_hash}"
_INSTANCE = "{instance_number:05}_{instance_hash}"
_SERIES_AND_INSTANCE = "{series_number:03}_" + _INSTANCE

PRESETS = {
    "patient-date-series": ("{patient}/{visit_date}/" + _SERIES_FOLDER, _INSTANCE),
    "patient-date-type": ("{patient}/{visit_date}/{scan_type}", _SERIES_AND_INSTANCE),
    "patient-id": ("{patient_id}", _SERIES_AND_INSTANCE),
    "flat-series": ("{patient_id}_{visit_date}_" + _SERIES_FOLDER, _INSTANCE),
}
"""Templates that have a name: of the folders, and of the files."""

DEFAULT_FILE_NAME = _INSTANCE

_PLAIN_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z_+,=-]*[0-9A-Za-z]").fullmatch
"""A name that `safe_part` would return as it is."""

_Render = Callable[[Facts, OwnValues, int], str]
"""Makes a field's piece of a name from facts, the file's own attributes and the digits of a hash; empty if missing."""

_FIELD = re.compile(r"\{([^{}]*)\}")
_HASHED = 1 + LONG_HASH
_ENDING = ".dcm"


class LayoutError(ValueError):
    """The templates cannot be used; `faults` says why, a sentence each, all of them at once."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = list(faults)
        super().__init__("; ".join(self.faults))


@dataclass(frozen=True, slots=True)
class _Part:
    """A field within a name, and the text before it, which goes with it."""

    before: str
    render: _Render
    varies: str


@dataclass(frozen=True, slots=True)
class _Name:
    """The template of one folder's or file's name."""

    parts: tuple[_Part, ...]
    after: str
    unknown: str

    def fill(self, facts: Facts, own: OwnValues, digits: int) -> str:
        text = ""
        for part in self.parts:
            value = part.render(facts, own, digits)
            if value:
                text += part.before + value
        if self.parts and not text:
            return self.unknown
        return _finish(text + self.after)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What the sorted tree looks like; made by `parse_layout`.

    Attributes
    ----------
    canonical
        The two templates, and the version of what they mean.
    varies
        How often the folder has to be asked for: once a "series", "header" or "file".
    """

    canonical: str
    varies: Literal["series", "header", "file"]
    _folders: tuple[_Name, ...]
    _file: _Name

    @property
    def folder_needs_row(self) -> bool:
        """Tell whether files that share their header can lie in different folders."""
        return self.varies == "file"

    def folder_of(self, facts: Facts, own: Sequence[str] = ("",) * len(ROW_FIELDS), *, digits: int = 8) -> str:
        """Return the folder, relative to the sorted tree, with forward slashes.

        Parameters
        ----------
        facts
            Of the files that share a header.
        own
            The file's own attributes in the order of `ROW_FIELDS`; only if `folder_needs_row`.
        digits
            How long the hashes are, at most 32.
        """
        return "/".join(name.fill(facts, own, digits) for name in self._folders)

    def file_namer(self, facts: Facts, *, digits: int = 8) -> Callable[[Sequence[str], str], str]:
        """Return what names the files that share a header; what is the same for all is worked out once.

        Returns
        -------
        callable
            Takes a file's own attributes in the order of `ROW_FIELDS`, and its content's SHA-256 where the SOP Instance
            UID alone does not name it, or nothing; returns the name with its ending.
        """
        nobody = ("",) * len(ROW_FIELDS)
        pieces: list[tuple[str, str, _Render | None]] = []
        for part in self._file.parts:
            if part.varies == "file":
                pieces.append((part.before, "", part.render))
            elif value := part.render(facts, nobody, digits):
                pieces.append((part.before, value, None))
        after = self._file.after

        def name(own: Sequence[str], digest: str) -> str:
            text = ""
            for before, known, render in pieces:
                value = known if render is None else render(facts, own, digits)
                if value:
                    text += before + value
            text += after
            if not _PLAIN_NAME(text):
                text = _finish(text)
            return f"{text}_{digest[:digits]}{_ENDING}" if digest else text + _ENDING

        return name

    def file_name_of(self, own: Sequence[str], facts: Facts, *, digest: str = "", digits: int = 8) -> str:
        """Name one file; see `file_namer`, which is faster for many."""
        return self.file_namer(facts, digits=digits)(own, digest)


def parse_layout(layout: str, file_name: str = "") -> Layout:
    """Read the templates of the study file.

    Parameters
    ----------
    layout
        The name of a preset, or a template of folders.
    file_name
        A template of file names without their ending; empty for the preset's own.

    Raises
    ------
    LayoutError
        With every fault of both.
    """
    folders, own_file_name = PRESETS.get(layout, (layout, DEFAULT_FILE_NAME))
    file_name = file_name or own_file_name
    reader = _TemplateReader()
    names = reader.read_folders(folders)
    file = reader.read_file_name(file_name)
    if reader.faults or file is None:
        raise LayoutError(reader.faults)
    used = {part.varies for name in names for part in name.parts}
    return Layout(
        canonical=f"{LAYOUT_VERSION}\n{folders}\n{file_name}",
        varies="file" if "file" in used else "header" if "header" in used else "series",
        _folders=tuple(names),
        _file=file,
    )


class _TemplateReader:
    """Reads templates and collects what is wrong with them."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self._where = ""
        self._room = 0
        self._unlisted = ", ".join(FIELDS)

    def read_folders(self, template: str) -> list[_Name]:
        self._where = "layout"
        if not template.strip():
            self._complain("is empty")
            return []
        if "{" not in template and "}" not in template:
            self._complain(f"is neither a preset ({', '.join(PRESETS)}) nor a template with a field in braces")
            return []
        if re.match(r"[/~\\]|[A-Za-z]:", template):
            self._complain("begins like an absolute path; it is relative to the sorted tree")
        if "\\" in template:
            self._complain("has a backslash; folders are separated by /")
        names = template.split("/")
        if "" in names[1:]:
            self._complain("has a folder without a name")
        if len(names) > DEEPEST:
            self._complain(f"has more than {DEEPEST} folders in each other")
        self._room = min(LONGEST_NAME, LONGEST_PATH // (min(len(names), DEEPEST) + 1) - 1)
        return [self._read_name(name, extension=_HASHED) for name in names if name]

    def read_file_name(self, template: str) -> _Name | None:
        self._where = "file_name"
        if not template.strip():
            self._complain("is empty")
            return None
        if "/" in template or "\\" in template:
            self._complain("names a folder; folders belong in layout")
        if template.lower().endswith(_ENDING):
            self._complain(f"ends in {_ENDING}, which every file gets anyway")
        if "{instance_hash}" not in template:
            self._complain("must hold {instance_hash}, so that no two files get one name")
        self._room = self._room or LONGEST_NAME
        return self._read_name(template, extension=_HASHED + len(_ENDING))

    def _complain(self, fault: str) -> None:
        self.faults.append(f"{self._where} {fault}")

    def _read_name(self, template: str, *, extension: int) -> _Name:
        """Read the template of one name, leaving room for what may have to be added to it."""
        *pieces, after = _FIELD.split(template)
        literals = [replace_unsafe(piece) for piece in (*pieces[::2], after)]
        if any(mark in literal for literal in (*pieces[::2], after) for mark in "{}"):
            self._complain("has a brace that is not closed, not opened, or within another")
        if any(".." in literal for literal in (*pieces[::2], after)):
            self._complain("must not hold '..'")
        elif not pieces and not safe_part(after):
            self._complain("has a folder whose name holds no letter and no digit")
        found = [named for piece in pieces[1::2] if (named := self._read_field(piece)) is not None]
        texts = sum(2 if field.kind == "patient" else field.kind in ("text", "name") for _, field, _ in found)
        fixed = len("".join(literals).encode("utf-8")) + sum(_fixed_size(field, spec) for _, field, spec in found)
        # Two bytes more, in case that a reserved name and the joints of letters ask for them.
        share = (self._room - extension - fixed - 2) // max(texts, 1)
        if share < (_SHORTEST_PART if texts else 0):
            self._complain("has a name that can grow too long; take fewer fields, or spread them over folders")
        parts = tuple(
            _Part(before, _compile(field, spec, share), field.varies)
            for before, (_, field, spec) in zip(literals, found, strict=False)
        )
        return _Name(parts, literals[-1], f"unknown-{found[0][0]}" if found else "")

    def _read_field(self, text: str) -> tuple[str, Field, int] | None:
        """Read what stands in braces: name, field, and the number its format gives (0 for none)."""
        name, colon, spec = text.partition(":")
        field = FIELDS.get(name)
        if field is None:
            close = difflib.get_close_matches(name, FIELDS, n=1)
            remedy = f"did you mean {{{close[0]}}}?" if close else f"there are {self._unlisted or 'those above'}"
            self._unlisted = self._unlisted if close else ""
            self._complain(f"has a field {{{name}}} that does not exist ({remedy})")
            return None
        if not colon:
            return name, field, 0
        if field.kind == "number":
            match = re.fullmatch(r"0([1-9])", spec)
            grammar = "takes the width with zeros as its format, like {" + name + ":03}"
        elif field.kind in ("text", "name"):
            match = re.fullmatch(r"\.([1-9][0-9]?|1[0-9]{2}|200)", spec)
            grammar = "takes its greatest length (1 to 200) as its format, like {" + name + ":.20}"
        else:
            match = None
            grammar = "takes no format"
        if match is None:
            self._complain(f"gives {{{name}}} a format it does not take: it {grammar}")
            return None
        return name, field, int(match[1])


def _fixed_size(field: Field, spec: int) -> int:
    """Return how many bytes of a name a field can take beside its text."""
    hashed = LONG_HASH if field.kind in ("hash", "name", "patient") else 0
    joints = {"name": 1, "patient": 2}.get(field.kind, 0)
    return hashed + joints + field.longest + (max(spec, 12) if field.kind == "number" else 0)


def _compile(field: Field, spec: int, share: int) -> _Render:
    """Return what makes a field's piece of a name.

    Parameters
    ----------
    spec
        What the format says: width of a number, greatest length of a text; 0 if it says nothing.
    share
        The bytes that one text may take.
    """
    read, identity = field.read, field.identity
    limit = min(share, max(LONGEST_PART, spec))

    def text(value: str) -> str:
        part = safe_part(value, limit=limit)
        return safe_part(part[:spec], limit=limit) if spec else part

    def name(facts: Facts, own: OwnValues, digits: int) -> str:
        value = read(facts, own)
        part = text(value)
        if part == value and not part.lower().startswith("unknown-"):
            return part
        return "_".join(filter(None, (part, short_hash(value, digits=digits))))

    def patient(facts: Facts, _: OwnValues, digits: int) -> str:
        series = facts.series
        parts = [part for part in (text(series.patient_id), text(plain_name(series.patient_name))) if part]
        return "_".join([*(parts or [UNKNOWN_PATIENT]), short_hash(*patient_key(series), digits=digits)])

    renders: dict[str, _Render] = {
        "text": lambda facts, own, _: text(read(facts, own)),
        "name": name,
        "number": lambda facts, own, _: pad_number(read(facts, own), spec),
        "plain": lambda facts, own, _: read(facts, own),
        "hash": lambda facts, own, digits: short_hash(*identity(facts, own), digits=digits),
        "patient": patient,
    }
    return renders[field.kind]


def _finish(name: str) -> str:
    """Make a whole name safe: pieces that are can form one that is not."""
    return safe_part(name, limit=LONGEST_NAME)
