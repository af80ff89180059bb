"""Collect what identifies a patient from a source, and search an export's values for it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property
from typing import NamedTuple

from pydicom._uid_dict import UID_dictionary
from pydicom.dataset import Dataset

from tasks.deidentify.audit.content import IDENTIFYING, TEXT_VALUE, concept_of
from tasks.deidentify.audit.dates import dates_in
from tasks.deidentify.audit.memory import Memory
from tasks.deidentify.audit.read import Piece, Reading, Span, creators_of, dictionary_vr
from tasks.deidentify.audit.words import plain, tokens_of

_IDENTIFYING = frozenset(
    {
        0x00080050,  # Accession Number
        0x00080080,  # Institution Name
        0x00080081,  # Institution Address
        0x00080092,  # Referring Physician's Address
        0x00080094,  # Referring Physician's Telephone Numbers
        0x00081010,  # Station Name
        0x00081040,  # Institutional Department Name
        0x00100020,  # Patient ID
        0x00100021,  # Issuer of Patient ID
        0x00101000,  # Other Patient IDs
        0x00101040,  # Patient's Address
        0x00101080,  # Military Rank
        0x00101090,  # Medical Record Locator
        0x00102154,  # Patient's Telephone Numbers
        0x00102155,  # Patient's Telecom Information
        0x00181000,  # Device Serial Number
        0x00181002,  # Device UID
        0x00181008,  # Gantry ID
        0x00200010,  # Study ID
        0x00324000,  # Study Comments
        0x00104000,  # Patient Comments
        0x00380010,  # Admission ID
        0x00380300,  # Current Patient Location
        0x00400241,  # Performed Station AE Title
        0x00400242,  # Performed Station Name
        0x00400243,  # Performed Location
        0x00400253,  # Performed Procedure Step ID
        0x00401001,  # Requested Procedure ID
        0x00402016,  # Placer Order Number / Imaging Service Request
        0x00402017,  # Filler Order Number / Imaging Service Request
    }
)
"""Attributes whose values point at the patient, the visit or the machine; beside all PN, UI, DA and DT."""

_HARVESTED_VRS = frozenset({"DA", "DT", "PN", "SQ", "UI"})
_UNTOLD_VRS = frozenset({None, "UN"})

_COMMON = frozenset(
    {"anonymous", "anonymized", "none", "unknown", "n/a", "other", "yes", "brain", "head"}
    | {"dti", "dwi", "fmri", "mri", "phantom", "qa", "resting", "slice", "test", "timing", "volunteer"}
    | {"canon", "ge", "ge medical systems", "hitachi", "philips", "siemens", "toshiba", "uih"}
)
"""Values that stand where an identifier should and mean none, are the field's own words and phantoms' names, or name
the maker."""

_MOST_REMEMBERED = 1 << 22
_INSTANCE = 0x00020003  # Media Storage SOP Instance UID

_SHORTEST_SEARCHED = 4
"""Characters below which a text is too common to be searched inside others; it is then compared with whole values."""

_SHORTEST_INSIDE = 5
"""Characters below which a name is looked for as a word: shorter ones stand inside others by chance."""

_SHORTEST_NUMBER = 3
_LONG_NUMBER = 6
"""Digits from which a number is looked for among numbers: a shorter ID is as well a repetition time."""

_SHORTEST_IN_BYTES = 6
"""Characters below which a text is found in numbers and pixels' neighbours by chance."""

SHORTEST_SOUGHT = 5
"""Bytes below which nothing is looked for: the shortest UID that is."""

_UID = re.compile(r"(?<![0-9])[0-9]+(?:\.[0-9]+){2,}")
_RUN = re.compile(r"[0-9a-z]+")
_TO_RUNS = bytes(ord(chr(code).lower()) if chr(code).isalnum() and code < 0x80 else 0x20 for code in range(256))
_TO_FIGURES = bytes(code if chr(code) in "0123456789./-" else 0x20 for code in range(256))
_TO_WIDE = bytes(ord("a") if code < 0x80 and chr(code).isalnum() else code and 0x20 for code in range(256))
_WORDS = re.compile(r"\w+")
_PIECE = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_WIDE = b"a\0a\0a\0"
_WIDE_TEXTS = (re.compile(rb"(?:[\x20-\xff]\0){4,}"), re.compile(rb"(?:\0[\x20-\xff]){4,}"))
_INTRODUCED = (
    r"(?:[a-z]{{2,}}[ :#]{{1,2}}|(?:(?<![a-z])id|patient|exam|accession|serial)[a-z]*[^0-9a-z]{{1,8}})"
    r"{}(?!\.?[0-9a-z])"
)
"""A number behind a word, or behind a key that speaks of a person or a visit, whatever punctuation divides them."""


# ---- harvest


class Harvest(NamedTuple):
    """What a file, or a part of one, holds of its patient.

    Attributes
    ----------
    identifiers
        Names, in parts and whole, and numbers, in lower case.
    uids
        Those that the standard does not define.
    dates
        As YYYYMMDD.
    """

    identifiers: frozenset[str] = frozenset()
    uids: frozenset[str] = frozenset()
    dates: frozenset[str] = frozenset()


_NOTHING = Harvest()


class Harvester:
    """Collects from the files of one patient; what was collected from an element is remembered, up to 4 MiB of them.

    One for each patient.
    """

    def __init__(self) -> None:
        self._remembered: Memory[Harvest] = Memory(_MOST_REMEMBERED)

    def parts(self, source: Reading, along: Mapping[int, Harvest] | None = None) -> dict[int, Harvest]:
        """Collect from all elements that point at the patient, in all items.

        Parameters
        ----------
        source
            What to collect from.
        along
            What was collected from the file that it was read along: then the same holds where it did not change.

        Returns
        -------
        dict of int to Harvest
            By the indices of the elements, where there is something.
        """
        if along is None or source.along is None:
            return self._collect(source, range(len(source.spans)), creators_of(source.spans), {})
        count = len(source.along.spans)
        tail = range(count, len(source.spans))
        known = {index: found for index, found in along.items() if index < count}
        return self._collect(source, (*source.changed, *tail), [*source.along.creators, *[""] * len(tail)], known)

    def _collect(
        self, source: Reading, indices: Iterable[int], creators: Sequence[str], found: dict[int, Harvest]
    ) -> dict[int, Harvest]:
        for index in indices:
            span = source.spans[index]
            harvest = self._of(span, source, creators[index]) if _is_candidate(span) else _NOTHING
            if harvest != _NOTHING:
                found[index] = harvest
            else:
                found.pop(index, None)
        return found

    def _of(self, span: Span, source: Reading, creator: str) -> Harvest:
        if not span.content:
            return _collect(Piece(source, span.element))
        key = (creator, source.character_set, span.content)
        known = self._remembered.get(key)
        if known is None:
            known = _collect(Piece(source, span.element))
            self._remembered.remember(key, known, len(span.content))
        return known


def _is_candidate(span: Span) -> bool:
    """Tell whether an element may hold something; what tells no VR is looked up."""
    tag, vr = span.tag, span.element.VR
    if vr in _UNTOLD_VRS:
        if tag & 0x10000:
            return not 0x10 <= tag & 0xFFFF <= 0xFF
        vr = dictionary_vr(tag)
    return vr in _HARVESTED_VRS or tag in _IDENTIFYING


def together(source: Reading, parts: Iterable[Harvest]) -> Harvest:
    """Put together what was collected from a file's elements, with what its file meta information names."""
    found = list(parts)
    return Harvest(
        frozenset().union(*(one.identifiers for one in found)),
        frozenset(source.meta_texts(_INSTANCE)).union(*(one.uids for one in found)) - {""},
        frozenset().union(*(one.dates for one in found)) - {"19000101"},
    )


def _collect(piece: Piece) -> Harvest:
    vr = piece.vr
    if vr == "PN":
        names = {part.casefold() for name in piece.texts for part in _name_parts(name)}
        return Harvest(identifiers=frozenset(names))
    if vr == "SQ":
        inside = [
            _collect(Piece(item, element))
            for item in piece.items
            for element in item.values()
            if element.VR in _HARVESTED_VRS or element.VR in _UNTOLD_VRS or element.tag in _IDENTIFYING
        ]
        inside += [_collect_content(item) for item in piece.items if TEXT_VALUE in item]
        return Harvest(*(frozenset().union(*parts) for parts in zip(_NOTHING, *inside, strict=True)))
    if piece.tag in _IDENTIFYING:
        return Harvest(identifiers=frozenset(text.casefold() for text in piece.texts))
    if vr == "UI":
        return Harvest(uids=frozenset(uid for uid in piece.texts if uid and uid not in UID_dictionary))
    if vr in ("DA", "DT"):
        return Harvest(dates=frozenset(dates_in(piece.texts)))
    return _NOTHING


def _collect_content(item: Dataset) -> Harvest:
    """Collect the text of a content item whose concept points at the patient or at who did it."""
    element = item.get_item(TEXT_VALUE)
    if element is None or concept_of(item) not in IDENTIFYING:
        return _NOTHING
    return Harvest(identifiers=frozenset(text.casefold() for text in Piece(item, element).texts))


def _name_parts(name: str) -> set[str]:
    """Split a person's name into what may be searched for: each component of each group, and the whole."""
    parts = {part for group in name.split("=") for part in re.split(r"[\^\s,]+", group)}
    return {part for part in parts | {name, name.replace("^", " ").strip()} if len(part) > 1}


def worth_searching(identifiers: Iterable[str], but: AbstractSet[str]) -> frozenset[str]:
    """Return what to search for: in lower case, without what means nobody and what is meant to be read."""
    return frozenset({text.strip().casefold() for text in identifiers} - {"", *but} - _COMMON)


# ---- search


class Blob:
    """Bytes to be searched, taken apart once for all that is looked for.

    Attributes
    ----------
    raw
        As they stand.
    runs
        All runs of letters and digits, in lower case.
    figures
        All runs of digits and what stands between them in dates and UIDs, those aside that are too short for either.
    """

    __slots__ = ("_is_wide", "_text", "_wide_texts", "figures", "raw", "runs")

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.runs = frozenset(raw.translate(_TO_RUNS).split())
        figures = raw.translate(_TO_FIGURES).split()
        self.figures = b" ".join([run for run in figures if len(run) >= SHORTEST_SOUGHT]).decode()
        self._text: str | None = None
        self._is_wide: bool | None = None
        self._wide_texts: list[str] | None = None

    @property
    def text(self) -> str:
        """In lower case, each byte a letter."""
        if self._text is None:
            self._text = self.raw.decode("latin-1").lower()
        return self._text

    @property
    def uids(self) -> list[str]:
        """Everything that looks like a UID."""
        if self.figures.count(".") < 2:
            return []
        return _UID.findall(" ".join([run for run in self.figures.split(" ") if run.count(".") > 1]))

    @property
    def wide_texts(self) -> list[str]:
        """What is written in 16-bit letters, in lower case."""
        if self._wide_texts is None:
            found = (pattern.findall(self.raw) for pattern in _WIDE_TEXTS) if self.is_wide else ()
            self._wide_texts = [
                "\n".join(text.replace(b"\0", b"").decode("latin-1").lower() for text in texts) for texts in found
            ]
        return self._wide_texts

    @property
    def is_wide(self) -> bool:
        """Whether three letters or digits stand in a row in 16 bits each."""
        if self._is_wide is None:
            self._is_wide = _WIDE in self.raw.translate(_TO_WIDE)
        return self._is_wide


def runs_of(text: str) -> frozenset[bytes]:
    """Return all runs of letters and digits."""
    return frozenset(text.encode("latin-1").translate(_TO_RUNS).split())


class Search:
    """Looks for a patient's identifiers in texts and bytes, however many they are: what stands there is looked up.

    Parameters
    ----------
    identifiers
        As `worth_searching` returns them.
    """

    def __init__(self, identifiers: AbstractSet[str]) -> None:
        spelled = set(identifiers) | {plain(one).casefold() for one in identifiers if not one.isascii()}
        self._whole = frozenset(one for one in spelled if not one.isdigit() or len(one) >= _SHORTEST_NUMBER)
        self._numbers = frozenset(one for one in spelled if one.isdigit() and one.isascii())
        words = {one for one in spelled - self._numbers if len(one) >= _SHORTEST_SEARCHED}
        self._words = frozenset(words)
        self._foreign_words = tuple(sorted(one for one in spelled if not one.isascii() and len(one) > 1))
        self._inside = tuple(sorted(one for one in words if one.isascii() and len(one) >= _SHORTEST_INSIDE))
        self._keys = frozenset(key for one in words if len(key := "".join(tokens_of(one))) >= _SHORTEST_SEARCHED)
        self._keys |= {one for one in self._numbers if len(one) >= _LONG_NUMBER}
        self._short_numbers = frozenset(one for one in self._numbers if _SHORTEST_NUMBER <= len(one) < _LONG_NUMBER)

    def finds_in_text(self, text: str) -> bool:
        """Tell whether one stands in a text: as a whole, as words, or inside one if it is long enough for that."""
        folded = text.casefold()
        ascii_text = plain(text).casefold()
        if folded in self._whole or ascii_text in self._whole:
            return True
        if any(one in folded for one in self._foreign_words) or any(one in ascii_text for one in self._inside):
            return True
        tokens = tokens_of(text)
        if any(token in self._numbers and len(token) >= _SHORTEST_SEARCHED for token in tokens):
            return True
        if not self._words.isdisjoint(piece.casefold() for piece in _PIECE.findall(plain(text))):
            return True
        return any(
            joined in self._keys for first in range(len(tokens)) for joined in _joined(tokens[first : first + 8])
        )

    def finds_in_term(self, text: str, *, is_private: bool) -> bool:
        """Tell whether one stands alone in a defined term or a private text, where a part of a word is chance."""
        folded = text.casefold()
        if is_private and folded in self._short_numbers:
            return True
        for first in set(_WORDS.findall(folded)):
            for one in self._by_first_word.get(first, ()):
                around = (r"(?<![\w.])", r"(?!\.?\w)") if one.isdigit() else (r"(?<!\w)", r"(?!\w)")
                if re.search(around[0] + re.escape(one) + around[1], folded):
                    return True
        return any(one in folded for one in self._foreign_words) if not folded.isascii() else False

    def finds_in_blob(self, blob: Blob, *, anywhere: bool = False) -> bool:
        """Tell whether one stands apart in the text of a blob: keys run together there, as in sSliceArray."""
        return (
            (anywhere and any(one in blob.text for one in self._inside))
            or self._finds_apart(blob.runs, blob, _SHORTEST_SEARCHED)
            or self._finds_introduced(blob)
            or any(self._finds_apart(runs_of(wide), wide, _SHORTEST_SEARCHED) for wide in blob.wide_texts)
            or (self._foreign_in_blobs is not None and self._foreign_in_blobs.search(blob.raw) is not None)
        )

    def finds_in_bytes(self, blob: Blob) -> bool:
        """Tell whether one stands apart in bytes that may be numbers."""
        return (
            self._finds_apart(blob.runs, blob, _SHORTEST_IN_BYTES)
            or any(self._finds_apart(runs_of(wide), wide, _SHORTEST_IN_BYTES) for wide in blob.wide_texts)
            or (self._foreign_in_bytes is not None and self._foreign_in_bytes.search(blob.raw) is not None)
        )

    def _finds_apart(self, runs: AbstractSet[bytes], where: Blob | str, shortest: int) -> bool:
        if self._by_longest_run.keys().isdisjoint(runs):
            return False
        text = where.text if isinstance(where, Blob) else where
        return any(
            len(one) >= shortest and _stands_apart(one, text)
            for run in self._by_longest_run.keys() & runs
            for one in self._by_longest_run[run]
        )

    def _finds_introduced(self, blob: Blob) -> bool:
        """Find a short number where a word stands in front of it."""
        found = [one for one in self._short_numbers if one.encode() in blob.runs]
        return any(re.search(_INTRODUCED.format(one), blob.text) is not None for one in found)

    @cached_property
    def _by_first_word(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for one in {*self._words, *(number for number in self._numbers if len(number) >= _LONG_NUMBER)}:
            words = _WORDS.findall(one)
            if words:
                found[words[0]].append(one)
        return dict(found)

    @cached_property
    def _by_longest_run(self) -> dict[bytes, list[str]]:
        found: dict[bytes, list[str]] = defaultdict(list)
        for one in {*self._words, *(number for number in self._numbers if len(number) >= _LONG_NUMBER)}:
            runs = _RUN.findall(one) if one.isascii() else []
            if runs:
                found[max(runs, key=len).encode()].append(one)
        return dict(found)

    @cached_property
    def _foreign_in_blobs(self) -> re.Pattern[bytes] | None:
        return _any_of(self._words, _SHORTEST_SEARCHED)

    @cached_property
    def _foreign_in_bytes(self) -> re.Pattern[bytes] | None:
        return _any_of({one for one in self._whole if not one.isascii() and len(one) > 1}, _SHORTEST_IN_BYTES)


def _joined(tokens: list[str]) -> Iterator[str]:
    joined = ""
    for token in tokens:
        joined += token
        yield joined


def _stands_apart(one: str, text: str) -> bool:
    """Find an identifier where no letter or digit adjoins it, and no decimal point one of digits alone."""
    if one.isdigit():
        return re.search(rf"(?<![0-9a-z.]){one}(?!\.?[0-9a-z])", text) is not None
    return re.search(rf"(?<![0-9a-z]){re.escape(one)}(?![0-9a-z])", text) is not None


def _any_of(words: AbstractSet[str], shortest: int) -> re.Pattern[bytes] | None:
    """Make a pattern of the words that are not in ASCII, in both cases and in the encodings that occur."""
    forms: set[bytes] = set()
    for one in words:
        if one.isascii():
            continue
        for text in {one, one.upper(), one.title()}:
            for codec in ("utf-8", "latin-1", "utf-16-le", "shift_jis", "iso2022_jp", "euc_kr", "gb18030"):
                try:
                    forms.add(text.encode(codec))
                except UnicodeEncodeError:
                    continue
    long = sorted(form for form in forms if len(form) >= shortest)
    if not long:
        return None
    return re.compile(rb"(?<![0-9A-Za-z])(?:" + b"|".join(map(re.escape, long)) + rb")(?![0-9A-Za-z])")
