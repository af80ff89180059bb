"""The rules in effect: the standard's table turned into one action for each attribute, wherever in an image it stands.

Three layers decide, in this order. Table E.1-1 of PS3.15 has 657 rows; a compound code such as X/Z/D becomes one action
by the attribute's type in its IOD. `data/decisions.json` speaks, attribute by attribute and with a reason, of text and
binary attributes that the table does not list. What neither names is decided by its value representation, and text that
nobody has examined is not kept.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import importlib.resources
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from pydicom.datadict import DicomDictionary  # type: ignore[attr-defined] # documented, yet not re-exported by name

from tasks.deidentify import structured
from tasks.deidentify.codes import codes_digest, is_published, says_the_schemes_words
from tasks.deidentify.descriptors import Vocabulary, load_vocabulary
from tasks.deidentify.pixels import PIXELS_VERSION, RegionRule
from tasks.deidentify.private import load_private_table
from tasks.deidentify.siemens import load_siemens_table
from tasks.deidentify.standard import (
    PRIVATE,
    AttributeTypes,
    ConfidentialityRule,
    load_attribute_types,
    load_confidentiality_table,
)
from tasks.deidentify.structured import STRUCTURED_VERSION, Treatment
from tasks.deidentify.terms import terms_digest
from tasks.dicom.elements import Element
from tasks.errors import UsageError

DECISIONS_FILE = "decisions.json"

BASIC_PROFILE_CODE = ("113100", "Basic Application Confidentiality Profile")
"""Code value and meaning (scheme DCM) of the profile itself; PS3.16 CID 7050."""

MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"


class Action(enum.IntEnum):
    """What is done with an attribute that is present; none is ever added where it is absent."""

    KEEP = 0
    """Copy the value."""
    REMOVE = 1
    """Leave the attribute out, with everything nested in it."""
    EMPTY = 2
    """Keep the attribute with zero length; a sequence with no items."""
    DUMMY = 3
    """Replace the value with a non-empty one that fits the VR and says nothing. Never asked for a sequence."""
    UID = 4
    """Replace each UID that is not the standard's own by the one new UID that stands for it everywhere."""
    DATE = 5
    """Shift the date (DA, DT) by the patient's number of days, keeping the time of day."""
    AGE = 6
    """Keep an age below 90 years; from 90 on, write 090Y."""
    PSEUDONYM = 7
    """Write the subject's pseudonym."""
    CLEAN_SEQUENCE = 8
    """Keep the sequence and its items, and apply `Rules.nested` inside them."""
    DESCRIPTOR = 9
    """Keep of a text the words that the vocabulary has, and mask the others: `tasks.deidentify.descriptors`."""


class Option(enum.Enum):
    """The ten options of PS3.15 section E.3 that have a column in table E.1-1, with their codes of PS3.16 CID 7050."""

    RETAIN_SAFE_PRIVATE = ("retain_safe_private", "113111", "Retain Safe Private Option")
    RETAIN_UIDS = ("retain_uids", "113110", "Retain UIDs Option")
    RETAIN_DEVICE_IDENTITY = ("retain_device_identity", "113109", "Retain Device Identity Option")
    RETAIN_INSTITUTION_IDENTITY = ("retain_institution_identity", "113112", "Retain Institution Identity Option")
    RETAIN_PATIENT_CHARACTERISTICS = (
        "retain_patient_characteristics",
        "113108",
        "Retain Patient Characteristics Option",
    )
    RETAIN_LONGITUDINAL_FULL_DATES = (
        "retain_longitudinal_full_dates",
        "113106",
        "Retain Longitudinal Temporal Information Full Dates Option",
    )
    RETAIN_LONGITUDINAL_MODIFIED_DATES = (
        "retain_longitudinal_modified_dates",
        "113107",
        "Retain Longitudinal Temporal Information Modified Dates Option",
    )
    CLEAN_DESCRIPTORS = ("clean_descriptors", "113105", "Clean Descriptors Option")
    CLEAN_STRUCTURED_CONTENT = ("clean_structured_content", "113104", "Clean Structured Content Option")
    CLEAN_GRAPHICS = ("clean_graphics", "113103", "Clean Graphics Option")

    def __init__(self, column: str, code: str, meaning: str) -> None:
        self.column = column
        self.code = code
        self.meaning = meaning


DEFAULT_OPTIONS = frozenset(
    {
        Option.RETAIN_SAFE_PRIVATE,
        Option.RETAIN_PATIENT_CHARACTERISTICS,
        Option.RETAIN_LONGITUDINAL_MODIFIED_DATES,
        Option.CLEAN_DESCRIPTORS,
    }
)
"""What is chosen where nobody says otherwise: what a longitudinal imaging trial needs."""

WITHOUT_A_COLUMN: Mapping[str, str] = MappingProxyType(
    {"113101": "Clean Pixel Data Option", "113102": "Clean Recognizable Visual Features Option"}
)
"""The options of PS3.15 section E.3 that no attribute rule can do, code to meaning; the second is not done yet."""

CLEAN_PIXEL_DATA = "113101"
"""The first of them: the code of files in which a region rule has blacked out areas."""

METHODS: Mapping[str, str] = MappingProxyType(
    {
        BASIC_PROFILE_CODE[0]: BASIC_PROFILE_CODE[1],
        **{option.code: option.meaning for option in Option},
        **WITHOUT_A_COLUMN,
    }
)
"""All codes of PS3.16 CID 7050 with their meanings."""

_RETAINING = (
    Option.RETAIN_UIDS,
    Option.RETAIN_DEVICE_IDENTITY,
    Option.RETAIN_INSTITUTION_IDENTITY,
    Option.RETAIN_PATIENT_CHARACTERISTICS,
    Option.RETAIN_LONGITUDINAL_FULL_DATES,
)
"""The options whose K keeps an attribute as it stands."""

STAMPED_TAGS = frozenset({0x0012_0062, 0x0012_0063, 0x0012_0064, 0x0028_0303})
"""What the rewriter writes at the top level of every file: Patient Identity Removed, De-identification Method and its
Code Sequence, Longitudinal Temporal Information Modified (PS3.15 sections E.1.1, E.3.6). Their action here is KEEP."""

_PIXEL_TAGS = frozenset({0x7FE0_0001, 0x7FE0_0002, 0x7FE0_0003, 0x7FE0_0008, 0x7FE0_0009, 0x7FE0_0010})
"""Pixel data in their three forms, and the tables of where their frames begin."""

PSEUDONYM_TAGS = frozenset({0x0010_0010, 0x0010_0020})
"""Patient's Name and Patient ID. The table asks for Z and Z/D; both codes allow a value that identifies nobody, and one
value for all images of a subject keeps them together."""

_FOREIGN_GROUPS = frozenset({0x0000, 0x0002, 0x0004, 0xFFFC, 0xFFFE})
"""Commands, file meta information (rebuilt elsewhere), directory records, padding and delimiters: none belong here."""

_PADDING = " \0"
"""What fills a value to an even length (PS3.5 section 6.2), as readers hand it on."""

_TEXT_VRS = frozenset({"AE", "LO", "LT", "SH", "ST", "UC", "UT"})
_DESCRIBING_VRS = _TEXT_VRS - {"AE"}
_NUMBER_VRS = frozenset({"AT", "DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV"})
_BULK_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})

_NEWER_VRS: Mapping[int, str] = MappingProxyType(
    {
        0x0010_0043: "SQ",  # Sex Parameters for Clinical Use Category Sequence
        0x0010_0046: "SQ",  # Sex Parameters for Clinical Use Category Code Sequence
        0x0010_0047: "UR",  # Sex Parameters for Clinical Use Category Reference
        0x0040_A034: "DT",  # Effective Start DateTime
        0x0040_A035: "DT",  # Effective Stop DateTime
        0x0040_B034: "DT",  # Annotation DateTime
        0x0040_B036: "DT",  # Segment Definition DateTime
    }
)
"""VRs that matter to a decision, of attributes in table E.1-1 that are younger than pydicom's dictionary (PS3.6)."""


class Surroundings(enum.IntEnum):
    """What a data set or an item is part of, as far as it matters to attributes that the table does not list."""

    PLAIN = 0
    """A data set, or the items of an ordinary sequence."""
    CODE = 1
    """The items of a sequence whose codes come from published lists, each of which is judged by its scheme."""
    DUMMY = 2
    """The items of a sequence that is there only because its IOD requires it: of unlisted attributes none is kept."""
    OWN_CODE = 3
    """The items of a sequence whose codes an option keeps although they may be an institution's own."""
    PUBLISHED_CODE = 4
    """A code that was judged to be its scheme's, with the scheme's own words for it: both are kept."""
    REWORDED_CODE = 5
    """Such a code in other words, which are cleaned."""
    CONTENT = 6
    """Content items, each of which is judged by its concept."""
    CLEANED_CONTENT = 7
    """A content item whose text is cleaned, or a part of one."""
    KEPT_CONTENT = 8
    """A content item whose text an option retains."""
    DUMMY_CONTENT = 9
    """A content item whose value is replaced by one that says nothing."""
    CONTENT_CODE = 10
    """Codes inside content items, which go with their item where they are not their scheme's."""


_JUDGED = frozenset({Surroundings.CODE, Surroundings.CONTENT, Surroundings.CONTENT_CODE})
_OF_CODES = frozenset({Surroundings.CODE, Surroundings.OWN_CODE, Surroundings.PUBLISHED_CODE})
_OF_CONTENT = frozenset({Surroundings.CLEANED_CONTENT, Surroundings.KEPT_CONTENT, Surroundings.DUMMY_CONTENT})
_TREATED: Mapping[Treatment, Surroundings] = MappingProxyType(
    {
        Treatment.CLEAN: Surroundings.CLEANED_CONTENT,
        Treatment.KEEP: Surroundings.KEPT_CONTENT,
        Treatment.DUMMY: Surroundings.DUMMY_CONTENT,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """What this project has decided for single attributes, each with the reason in one sentence, by tag.

    Attributes
    ----------
    digest
        SHA-256 of the file.
    text
        Text attributes outside table E.1-1 that are kept.
    descriptors
        Those among them that a person may have typed: the option to clean descriptors cleans them, too.
    code_text
        Text attributes that are kept directly inside the items of a sequence of `code_sequences`.
    code_sequences
        Sequences whose codes come from published lists. Codes elsewhere (requested procedures, protocols, services) are
        often a hospital's own, and their meaning is a description as free as those which the table removes.
    bulk
        Binary attributes that are kept.
    never_kept
        Attributes that are removed although their VR alone would keep them, in part or whole.
    not_the_patients_dates
        Dates and times of a code list, a trial or a product. They are the same for every patient, or even public:
        shifted by the patient's days, they would tell these days. They follow the Basic Profile instead.
    """

    digest: str
    text: Mapping[int, str]
    descriptors: Mapping[int, str]
    code_text: Mapping[int, str]
    code_sequences: Mapping[int, str]
    bulk: Mapping[int, str]
    never_kept: Mapping[int, str]
    not_the_patients_dates: Mapping[int, str]


@functools.cache
def load_decisions() -> Decisions:
    """Read the decisions for single attributes once."""
    content = importlib.resources.files("tasks.deidentify").joinpath("data", DECISIONS_FILE).read_bytes()
    sections = json.loads(content)

    def reasons(section: str) -> Mapping[int, str]:
        return MappingProxyType({int(row["tag"], 16): row["reason"] for row in sections[section]})

    return Decisions(
        digest=hashlib.sha256(content).hexdigest(),
        text=reasons("text"),
        descriptors=reasons("descriptors"),
        code_text=reasons("code_text"),
        code_sequences=reasons("code_sequences"),
        bulk=reasons("bulk"),
        never_kept=reasons("never_kept"),
        not_the_patients_dates=reasons("not_the_patients_dates"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRow:
    """One line of the policy as a person reads it.

    Attributes
    ----------
    tag
        `(gggg,eeee)` with x in repeating groups, or `private`, or the VRs that a closing row speaks of.
    name
        The attribute's name, or what a closing row speaks of.
    basic
        The Basic Profile's code, empty for an attribute outside the table.
    options
        The codes of the profile's options in this row, such as `retain_patient_characteristics: K`, or empty.
    action
        What is done, in lower case.
    reason
        Why, where the table alone does not say it; else empty.
    """

    tag: str
    name: str
    basic: str
    options: str
    action: str
    reason: str


class Rules:
    """The actions for one level: a data set, or the items of one sequence. `Profile.actions` makes and shares them.

    Attributes
    ----------
    by_tag
        The action for every attribute with a row in table E.1-1, by tag; at the top level also for the stamps. For the
        innermost loop: `action = rules.by_tag.get(tag)`, and only on None `rules.unlisted(tag, vr)`. Never write to it.
    """

    __slots__ = ("_decided", "_nested", "_node", "_options", "_surroundings", "_types", "by_tag")

    by_tag: dict[int, Action]

    def __init__(self, *, options: frozenset[Option], node: int | None, surroundings: Surroundings, top: bool) -> None:
        self._options = options
        self._node = node
        self._surroundings = surroundings
        self._types: AttributeTypes = load_attribute_types()
        self._nested: dict[int, Rules] = {}
        self._decided: dict[tuple[int, str], Action] = {}
        self.by_tag = dict(_listed_actions(options))
        table = load_confidentiality_table().by_tag
        for tag, kind in self._types.types_at(node).items():
            if tag in table:
                self.by_tag[tag] = _listed_action(table[tag], tag, kind, options)
        if top:
            self.by_tag.update(dict.fromkeys(STAMPED_TAGS, Action.KEEP))
        else:
            # Pixels inside an item are an icon, whatever the sequence is called, and nobody cleans them.
            self.by_tag.update(dict.fromkeys(_PIXEL_TAGS, Action.REMOVE))
        if surroundings is Surroundings.KEPT_CONTENT or (surroundings in _OF_CONTENT and Option.RETAIN_UIDS in options):
            # Table E.1-1 has no option for a content item's UID, as table E.3.4-1 has.
            self.by_tag[structured.UID] = Action.KEEP
        if surroundings in (Surroundings.DUMMY, Surroundings.DUMMY_CONTENT):
            # Whose date it is, of a birth or of a device, nobody looks at here.
            self.by_tag.update(dict.fromkeys((structured.DATE_TIME, structured.DATE, structured.TIME), Action.DUMMY))
            self.by_tag[structured.UNFORMATTED_TEXT] = Action.DUMMY

    @property
    def keeps_private(self) -> bool:
        """Whether private elements can stay here: not where only an IOD's demand keeps the sequence around."""
        return self._surroundings is not Surroundings.DUMMY

    @property
    def judges_items(self) -> bool:
        """Whether each item here is judged by itself: content items, and codes."""
        return self._surroundings in _JUDGED

    def for_item(
        self,
        data: bytes,
        elements: Sequence[Element],
        begin: int,
        depth: int,
        *,
        is_known: Callable[[str], bool],
        is_annotation: bool = False,
    ) -> Rules | None:
        """Return the rules for one content item, or for one code; None if nothing of it may stay.

        Of a code that is none of its scheme's, only what the IOD demands is left; an item without one is like others.

        Parameters
        ----------
        data, elements, begin, depth
            As of `structured.read_item`.
        is_known, is_annotation
            As of `structured.judge`.
        """
        if self._surroundings is Surroundings.CONTENT:
            item = structured.read_item(data, elements, begin, depth)
            chosen = frozenset(option.column for option in self._options)
            treatment = structured.judge(item, chosen, is_known=is_known, is_annotation=is_annotation)
            return None if treatment is Treatment.REMOVE else self._as(_TREATED[treatment])
        code = structured.read_code(data, elements, begin, depth)
        if (is_published(code) and not is_known(code.value)) or not any(code):
            own_words = says_the_schemes_words(code)
            return self._as(Surroundings.PUBLISHED_CODE if own_words else Surroundings.REWORDED_CODE)
        return None if self._surroundings is Surroundings.CONTENT_CODE else self._as(Surroundings.DUMMY)

    def _as(self, surroundings: Surroundings) -> Rules:
        return _rules(self._options, self._node, surroundings, top=False)

    def action(self, tag: int, vr: str) -> Action:
        """Return the action for any attribute, listed or not."""
        found = self.by_tag.get(tag)
        return self.unlisted(tag, vr) if found is None else found

    def unlisted(self, tag: int, vr: str) -> Action:
        """Return the action for an attribute that has no row in table E.1-1.

        Parameters
        ----------
        tag
            The attribute; private tags and group lengths are allowed.
        vr
            The VR in the file, or the dictionary's where the syntax has none (`OB or OW` and the like are understood).
            The dictionary's VR decides; where the file states another, what would be kept is not.
        """
        decided = self._decided.get((tag, vr))
        if decided is None:
            decided = _unlisted_action(
                tag, vr, self._types.types_at(self._node).get(tag), self._surroundings, self._options
            )
            if tag in DicomDictionary:
                # Only what the dictionary knows is remembered, so that a hostile file cannot make this grow.
                self._decided[tag, vr] = decided
        return decided

    def nested(self, sequence: int) -> Rules:
        """Return the rules inside the items of a sequence whose action is CLEAN_SEQUENCE (or KEEP)."""
        found = self._nested.get(sequence)
        if found is None:
            found = _rules(
                self._options,
                self._types.inside(self._node, sequence),
                _surroundings_inside(sequence, self._surroundings, self._options),
                top=False,
            )
            self._nested[sequence] = found
        return found


@functools.cache
def _rules(options: frozenset[Option], node: int | None, surroundings: Surroundings, *, top: bool) -> Rules:
    return Rules(options=options, node=node, surroundings=surroundings, top=top)


@functools.cache
def _listed_actions(options: frozenset[Option]) -> dict[int, Action]:
    table = load_confidentiality_table().by_tag
    return {tag: _listed_action(rule, tag, None, options) for tag, rule in table.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The Basic Application Level Confidentiality Profile of PS3.15 section E.2 with a choice of options.

    Parameters
    ----------
    options
        What is retained or cleaned beyond the Basic Profile.
    words
        The study's own, which may stand in descriptors on top of the vocabulary.
    regions
        What is blacked out in which images, and which of them it releases.

    Raises
    ------
    UsageError
        If dates shall both stay and move, or a word is none.
    """

    options: frozenset[Option]
    words: tuple[str, ...] = ()
    regions: tuple[RegionRule, ...] = ()

    def __post_init__(self) -> None:
        full, modified = Option.RETAIN_LONGITUDINAL_FULL_DATES, Option.RETAIN_LONGITUDINAL_MODIFIED_DATES
        if {full, modified} <= self.options:
            raise UsageError(
                problem=f"{full.column} and {modified.column} exclude each other: dates either stay or are moved.",
                remedy="Leave one of them out.",
            )
        load_vocabulary(self.words)

    @staticmethod
    def of(names: Iterable[str], words: Iterable[str] = (), regions: Iterable[RegionRule] = ()) -> Profile:
        """Make the profile with the options of these names, such as `retain_uids`, and a study's own words and regions.

        Raises
        ------
        UsageError
            If there is no option of a name, or the options cannot be had.
        """
        by_name = {option.column: option for option in Option}
        wanted = frozenset(names)
        if unknown := sorted(wanted - by_name.keys()):
            raise UsageError(
                problem=f"There is no option of the name {', '.join(unknown)}.",
                remedy=f"The names are: {', '.join(by_name)}.",
            )
        return Profile(
            options=frozenset(by_name[name] for name in wanted),
            words=tuple(sorted(set(words))),
            regions=tuple(regions),
        )

    @property
    def vocabulary(self) -> Vocabulary:
        """The words that may stand in a descriptor."""
        return load_vocabulary(self.words)

    @property
    def keeps_uids(self) -> bool:
        """Whether study, series, SOP instance and all other UIDs stay as they are, so that no new one is ever made."""
        return Option.RETAIN_UIDS in self.options

    def temporal_information(self) -> str:
        """Return what Longitudinal Temporal Information Modified (0028,0303) has to say.

        Returns
        -------
        str
            UNMODIFIED if dates and times stay, MODIFIED if dates are moved, REMOVED if neither option is chosen (PS3.15
            section E.3.6, PS3.3 section C.12.1).
        """
        if Option.RETAIN_LONGITUDINAL_FULL_DATES in self.options:
            return "UNMODIFIED"
        return "MODIFIED" if Option.RETAIN_LONGITUDINAL_MODIFIED_DATES in self.options else "REMOVED"

    def actions(self, sop_class_uid: str) -> Rules:
        """Return the rules for the top level of a SOP class; made once, then shared.

        An attribute that the IOD does not name counts as type 3 there, so that a compound code removes it.
        """
        root = load_attribute_types().roots.get(sop_class_uid.strip(_PADDING))
        return _rules(self.options, root, Surroundings.PLAIN, top=True)

    def codes(self) -> list[tuple[str, str]]:
        """Return (code value, code meaning), scheme DCM, of exactly what is done, for (0012,0064).

        Source: PS3.16 CID 7050.
        """
        return [BASIC_PROFILE_CODE, *sorted((option.code, option.meaning) for option in self.options)]

    def describe(self, sop_class_uid: str = MR_IMAGE_STORAGE) -> list[PolicyRow]:
        """Return the effective policy at the top level of a SOP class, in the order of tags.

        First every row of table E.1-1, then the private elements that are kept or cleaned, then the attributes that are
        decided one by one, then what befalls all others.
        """
        return [
            *self._rows_of_the_table(sop_class_uid),
            *(_rows_of_private() if keeps_private(self.options) else ()),
            *_rows_of_decisions(self.actions(sop_class_uid)),
            *_rows_by_vr(self.options),
        ]

    def digest(self) -> str:
        """Return SHA-256 over all that decides: options, both tables with their edition, and every action they lead to.

        It changes when an action changes anywhere, be it by a younger dictionary, and stays when a reason is reworded.
        """
        regions = [[getattr(rule, name) for name in RegionRule.__slots__ if name != "checked"] for rule in self.regions]
        return _digest(self.options, self.vocabulary.digest, json.dumps(regions))

    def _rows_of_the_table(self, sop_class_uid: str) -> Iterator[PolicyRow]:
        rules = self.actions(sop_class_uid)
        columns = sorted(option.column for option in self.options)
        for rule in load_confidentiality_table().rules:
            shown = f"({rule.pattern[:4]},{rule.pattern[4:]})"
            action, reason = Action.REMOVE, ""
            if rule.pattern == PRIVATE:
                shown = "private"
                if keeps_private(self.options):
                    reason = "All but those listed by themselves."
            elif "x" not in rule.pattern:
                tag = int(rule.pattern, 16)
                action, reason = rules.by_tag[tag], _reason(rule, tag, self.options)
            yield PolicyRow(
                tag=shown,
                name=rule.name,
                basic=rule.basic,
                options=", ".join(f"{column}: {rule.under(column)}" for column in columns if rule.under(column)),
                action=action.name.lower(),
                reason=reason,
            )


CLEANERS_VERSION = "cleaners 3"
"""Raised when what cleans descriptors or the inside of private elements gives other bytes."""


def keeps_private(options: frozenset[Option]) -> bool:
    """Tell whether private elements of the table of safe ones are kept."""
    return Option.RETAIN_SAFE_PRIVATE in options


DEFAULT_PROFILE = Profile(options=DEFAULT_OPTIONS)
"""Basic, with dates shifted, patient characteristics and safe private elements retained."""


def _listed_action(rule: ConfidentialityRule, tag: int, kind: str | None, options: frozenset[Option]) -> Action:
    if tag in PSEUDONYM_TAGS:
        return Action.PSEUDONYM
    vr = _vr_of(tag)
    if _asks_to_move(rule, options):
        # PS3.15 E.3.6 asks for modification and leaves the manner open: whole days are moved and the time of day stays,
        # because slice timing, decay correction and the order of series live in it. A code C on any other VR (Timezone
        # Offset From UTC, time stamps in binary) is not cleaned by moving days, so the Basic Profile holds; and so it
        # does for a date of the scanner, even against Retain Device Identity.
        if vr in ("DA", "DT", "TM") and _is_the_patients_date(rule, tag):
            return Action.KEEP if vr == "TM" else Action.DATE
    elif _is_retained(rule, vr, options):
        if vr == "AS":
            return Action.AGE
        return Action.CLEAN_SEQUENCE if vr == "SQ" else Action.KEEP
    if _is_cleaned(rule, vr, options) or _is_walked_into(rule, options):
        return Action.CLEAN_SEQUENCE if vr == "SQ" else Action.DESCRIPTOR
    return _basic_action(rule.basic, kind, vr)


def _asks_to_move(rule: ConfidentialityRule, options: frozenset[Option]) -> bool:
    modified = Option.RETAIN_LONGITUDINAL_MODIFIED_DATES
    return modified in options and rule.under(modified.column) is not None


def _is_retained(rule: ConfidentialityRule, vr: str, options: frozenset[Option]) -> bool:
    """Tell whether a chosen option has the code K in a row (PS3.15 sections E.3.6 to E.3.9 and E.3.11).

    A code C (allergies, patient state, a comment; AE titles, which often name a machine or a hospital) stands on text,
    which is not kept before something cleans it: the Basic Profile holds. A link (UR) leads to a place, so it goes too.
    """
    return vr != "UR" and any(option in options and rule.under(option.column) == "K" for option in _RETAINING)


def _is_cleaned(rule: ConfidentialityRule, vr: str, options: frozenset[Option]) -> bool:
    """Tell whether Clean Descriptors (PS3.15 section E.3.5) cleans a row instead of removing it.

    Texts are, and sequences whose items hold such texts. Codes of diagnoses and reasons are not: what they mean is
    about the patient and in no vocabulary of imaging, so the Basic Profile holds.
    """
    if Option.CLEAN_DESCRIPTORS not in options or rule.under(Option.CLEAN_DESCRIPTORS.column) is None:
        return False
    return vr in _DESCRIBING_VRS or (vr == "SQ" and not rule.name.endswith("Code Sequence"))


def _is_walked_into(rule: ConfidentialityRule, options: frozenset[Option]) -> bool:
    """Tell whether a sequence of content items or graphics is cleaned inside (PS3.15 sections E.3.3 and E.3.4).

    Planes of bits (overlays, curves) are not: letters drawn in them are no less text, and no rule reads them.
    """
    return "x" not in rule.pattern and any(
        option in options and rule.under(option.column) is not None
        for option in (Option.CLEAN_STRUCTURED_CONTENT, Option.CLEAN_GRAPHICS)
    )


def _is_the_patients_date(rule: ConfidentialityRule, tag: int) -> bool:
    # A date of the scanner (calibration, manufacture) is common to all its patients: shifted for each by another number
    # of days it would tell how their shifts differ. Kept, it would tell the shift itself, for a calibration is often of
    # the same day. So it stays only where nothing is shifted.
    return (
        rule.under(Option.RETAIN_DEVICE_IDENTITY.column) is None and tag not in load_decisions().not_the_patients_dates
    )


def _reason(rule: ConfidentialityRule, tag: int, options: frozenset[Option]) -> str:
    """Say in a sentence why a row's action is not what the codes alone would make of it; empty where it is."""
    vr = _vr_of(tag)
    if tag in STAMPED_TAGS:
        return "Written anew, to say what was done."
    if tag in PSEUDONYM_TAGS:
        return "The pseudonym keeps a subject's images together."
    if _asks_to_move(rule, options):
        if tag in load_decisions().not_the_patients_dates:
            return load_decisions().not_the_patients_dates[tag]
        if not _is_the_patients_date(rule, tag):
            return "A date of the scanner is common to its patients: kept or shifted, it would tell of their shifts."
        return "" if vr in ("DA", "DT", "TM") else "Moving days does not clean it: the Basic Profile holds."
    if _is_retained(rule, vr, options):
        return "From 90 years on, 090Y." if vr == "AS" else ""
    if _is_cleaned(rule, vr, options):
        return "" if vr != "SQ" else "Kept for the descriptors in its items."
    if _is_walked_into(rule, options):
        return "Cleaned item by item." if tag in structured.CONTENT_SEQUENCES else ""
    codes = {rule.under(option.column) for option in (*_RETAINING, Option.CLEAN_DESCRIPTORS) if option in options}
    if "K" in codes:
        return "A link leads to a place."
    return "Keeping it would ask for cleaning, which is not done: the Basic Profile holds." if "C" in codes else ""


def _basic_action(code: str, kind: str | None, vr: str) -> Action:
    """Resolve a code of the Basic Profile by the attribute's type, as the notes to table E.1-1a of PS3.15 define.

    X/Z/D and the like: removed, unless a value of zero length (type 2) or a dummy (type 1) is required by the IOD. A
    conditional type counts as its condition being met, since the attribute is there. Z allows a dummy by definition.
    """
    if code == "X":
        return Action.REMOVE
    if code == "U":
        return Action.UID
    if code == "D":
        return _dummy(vr)
    return _by_type(kind, vr, otherwise=Action.EMPTY if code in ("Z", "Z/D") else Action.REMOVE)


def _by_type(kind: str | None, vr: str, *, otherwise: Action = Action.REMOVE) -> Action:
    if kind in ("1", "1C"):
        return _dummy(vr)
    return Action.EMPTY if kind in ("2", "2C") else otherwise


def _dummy(vr: str) -> Action:
    # A dummy of a sequence is its own items with dummies in them (Surroundings.DUMMY, or new UIDs for X/Z/U*); a dummy
    # of a UID is another UID.
    if vr == "SQ":
        return Action.CLEAN_SEQUENCE
    return Action.UID if vr == "UI" else Action.DUMMY


def _unlisted_action(
    tag: int, vr: str, kind: str | None, surroundings: Surroundings, options: frozenset[Option]
) -> Action:
    group = tag >> 16
    if group & 1 or group in _FOREIGN_GROUPS or tag & 0xFFFF == 0:
        return Action.REMOVE
    entry = DicomDictionary.get(tag)
    if entry is None or tag in load_decisions().never_kept:
        # The dictionary of single tags leaves out curves and overlays, rightly here: the table removes their data, and
        # what describes a plane without Overlay Data, type 1, would only break its module (PS3.3 C.9.2).
        return Action.REMOVE
    known = _vr_of(tag)
    action = _action_for_vr(tag, known, kind, surroundings, options)
    stated = vr.partition(" or ")[0]
    if (
        action in (Action.KEEP, Action.DESCRIPTOR, Action.CLEAN_SEQUENCE)
        and stated != "UN"
        and stated not in entry[0].split(" or ")
    ):
        both_numbers = stated in _NUMBER_VRS and known in _NUMBER_VRS
        return Action.KEEP if both_numbers else _by_type(kind, known)
    return action


def _action_for_vr(
    tag: int, vr: str, kind: str | None, surroundings: Surroundings, options: frozenset[Option]
) -> Action:
    decisions = load_decisions()
    if vr == "SQ":
        if tag in structured.CONTENT_SEQUENCES:
            return Action.CLEAN_SEQUENCE if Option.CLEAN_STRUCTURED_CONTENT in options else _by_type(kind, vr)
        if surroundings in _OF_CONTENT and tag in structured.CODE_SEQUENCES:
            return Action.CLEAN_SEQUENCE
        foreign_code = _is_foreign_code_sequence(tag)
        return _by_type(kind, vr) if foreign_code and surroundings is not Surroundings.DUMMY else Action.CLEAN_SEQUENCE
    if vr == "UI":
        return Action.KEEP if Option.RETAIN_UIDS in options else Action.UID
    if vr == "UR":
        return Action.REMOVE
    if surroundings is Surroundings.DUMMY:
        return _by_type(kind, vr)
    if vr in ("DA", "DT", "TM"):
        if Option.RETAIN_LONGITUDINAL_FULL_DATES in options:
            return Action.KEEP
        if Option.RETAIN_LONGITUDINAL_MODIFIED_DATES in options and tag not in decisions.not_the_patients_dates:
            return Action.KEEP if vr == "TM" else Action.DATE
    if vr == "AS" and Option.RETAIN_PATIENT_CHARACTERISTICS in options:
        return Action.AGE
    if tag >> 16 == 0x0010 and Option.RETAIN_PATIENT_CHARACTERISTICS not in options:
        # Body mass index and other measures of the patient, not of the acquisition.
        return _by_type(kind, vr)
    if vr in _NUMBER_VRS or vr == "CS":
        return Action.KEEP
    if surroundings in _OF_CONTENT and tag == structured.TEXT_VALUE:
        if surroundings is Surroundings.KEPT_CONTENT:
            return Action.KEEP
        cleans = surroundings is Surroundings.CLEANED_CONTENT and Option.CLEAN_DESCRIPTORS in options
        return Action.DESCRIPTOR if cleans else Action.DUMMY
    if surroundings is Surroundings.REWORDED_CODE and tag in decisions.code_text:
        if tag not in structured.REWORDED:
            return Action.KEEP
        return Action.DESCRIPTOR if Option.CLEAN_DESCRIPTORS in options else _by_type(kind, vr)
    if vr in _TEXT_VRS and tag in decisions.text:
        typed = tag in decisions.descriptors and Option.CLEAN_DESCRIPTORS in options
        return Action.DESCRIPTOR if typed else Action.KEEP
    if vr in _TEXT_VRS and surroundings in _OF_CODES and tag in decisions.code_text:
        return Action.KEEP
    if vr in _BULK_VRS and tag in decisions.bulk:
        return Action.KEEP
    return _by_type(kind, vr)


def _is_foreign_code_sequence(tag: int) -> bool:
    """Tell whether a sequence holds codes that may be an institution's own: named a code sequence, and not examined."""
    entry = DicomDictionary.get(tag)
    return entry is not None and "CodeSequence" in entry[4] and tag not in load_decisions().code_sequences


def _surroundings_inside(
    tag: int,
    surroundings: Surroundings,
    options: frozenset[Option],
) -> Surroundings:
    if surroundings is Surroundings.DUMMY:
        return Surroundings.DUMMY
    if tag in structured.CONTENT_SEQUENCES and Option.CLEAN_STRUCTURED_CONTENT in options:
        return Surroundings.CONTENT
    if surroundings in _OF_CONTENT:
        if tag == structured.MEASURED_VALUE:
            return surroundings
        if tag in structured.CODE_SEQUENCES:
            return Surroundings.CONTENT_CODE
    rule = load_confidentiality_table().by_tag.get(tag)
    if rule is None:
        if _is_foreign_code_sequence(tag):
            return Surroundings.DUMMY
    elif not (_is_retained(rule, "SQ", options) or _is_cleaned(rule, "SQ", options) or _is_walked_into(rule, options)):
        # Only the Basic Profile keeps it, and only because the IOD requires it; U* means that its UIDs are replaced.
        return Surroundings.PLAIN if rule.basic.endswith("U*") else Surroundings.DUMMY
    elif rule.name.endswith("Code Sequence"):
        # An option that keeps an institution's or a population's codes keeps what they say.
        return Surroundings.OWN_CODE
    return Surroundings.CODE if tag in load_decisions().code_sequences else Surroundings.PLAIN


def _vr_of(tag: int) -> str:
    """Return the dictionary's VR; where it leaves a choice (US or OW), the last, which says least about the content."""
    entry = DicomDictionary.get(tag)
    if entry is None:
        return _NEWER_VRS.get(tag, "UN")
    return str(entry[0]).rpartition(" or ")[2]


def _rows_of_private() -> Iterator[PolicyRow]:
    for rule in load_private_table().rules:
        yield PolicyRow(
            tag=f"({rule.group:04X},xx{rule.low:02X})",
            name=f"{rule.creator}: {rule.name}",
            basic="",
            options=f"{Option.RETAIN_SAFE_PRIVATE.column}: C",
            action=rule.action.value,
            reason=rule.evidence,
        )


def _rows_of_decisions(rules: Rules) -> Iterator[PolicyRow]:
    decisions = load_decisions()
    listed = load_confidentiality_table().by_tag
    sections = (
        decisions.text,
        decisions.code_sequences,
        decisions.code_text,
        decisions.bulk,
        decisions.never_kept,
        decisions.not_the_patients_dates,
    )
    for section in sections:
        for tag, reason in section.items():
            if tag in listed:
                continue
            digits = f"{tag:08X}"
            vr, _, name, *_ = DicomDictionary[tag]
            action = rules.action(tag, vr).name.lower()
            if section is decisions.code_text:
                action = "keep (in the code sequences above)"
            yield PolicyRow(
                tag=f"({digits[:4]},{digits[4:]})",
                name=name,
                basic="",
                options="",
                action=action,
                reason=reason,
            )


def _rows_by_vr(options: frozenset[Option]) -> Iterator[PolicyRow]:
    by_type = "dummy, empty or remove by type"
    full = Option.RETAIN_LONGITUDINAL_FULL_DATES in options
    moved = Option.RETAIN_LONGITUDINAL_MODIFIED_DATES in options
    aged = Option.RETAIN_PATIENT_CHARACTERISTICS in options
    uids = ("keep", "") if Option.RETAIN_UIDS in options else ("uid", "The standard's own are left by the rewriter.")
    rows = [
        (" ".join(sorted(_TEXT_VRS | {"PN"})), "all other text and names", by_type, "Nobody has examined it."),
        ("DA DT", "all other dates", "keep" if full else "date" if moved else by_type, ""),
        ("TM", "all other times", "keep" if full or moved else by_type, ""),
        ("AS", "all other ages", "age" if aged else by_type, ""),
        ("UI", "all other UIDs", *uids),
        ("UR", "all other links", "remove", "A link leads to a place."),
        ("SQ", "all other code sequences", by_type, "The codes may be an institution's own."),
        ("SQ", "all other sequences", "clean_sequence", ""),
        ("CS", "all other coded strings", "keep", "Values that are no terms are masked."),
        (" ".join(sorted(_NUMBER_VRS)), "all other numbers", "keep", "Numbers that spell a text become empty."),
        (" ".join(sorted(_BULK_VRS)), "all other binary values", by_type, "Nobody has examined it."),
        ("any", "elements outside the dictionary, group lengths, curves, overlays", "remove", ""),
    ]
    for vrs, name, action, reason in rows:
        yield PolicyRow(tag=vrs, name=name, basic="", options="", action=action, reason=reason)


@functools.cache
def _digest(options: frozenset[Option], vocabulary: str, regions: str) -> str:
    table = load_confidentiality_table()
    types = load_attribute_types()
    hasher = hashlib.sha256()
    private: tuple[str, ...] = ()
    if keeps_private(options):
        private = (load_private_table().digest, load_siemens_table().digest)
    described = (vocabulary,) if Option.CLEAN_DESCRIPTORS in options else ()
    names = sorted(option.column for option in options)
    cleaners = (terms_digest(), codes_digest(), CLEANERS_VERSION, STRUCTURED_VERSION, PIXELS_VERSION, regions)
    for part in (table.edition, table.digest, types.digest, *cleaners, *private, *described, *names):
        hasher.update(part.encode("ascii") + b"\n")
    for part in (*EXPORTED_CLASSES, *(root for root, _ in _REFUSED_FAMILIES), _SAVED_SCREEN.pattern):
        hasher.update(part.encode("ascii") + b"\n")
    for kind in (None, "1", "2"):
        for tag, rule in sorted(table.by_tag.items()):
            inside = _surroundings_inside(tag, Surroundings.PLAIN, options)
            hasher.update(bytes([_listed_action(rule, tag, kind, options), inside]))
        for tag in sorted(DicomDictionary.keys() - table.by_tag.keys()):
            vr = _vr_of(tag)
            decided = [_unlisted_action(tag, vr, kind, around, options) for around in Surroundings]
            inside = _surroundings_inside(tag, Surroundings.PLAIN, options)
            hasher.update(tag.to_bytes(4) + bytes([*decided, inside]))
    return hasher.hexdigest()


REFUSAL_REASONS: Mapping[str, str] = MappingProxyType(
    {
        "secondary-capture": "A secondary capture is a picture of a screen or a page and may show the patient's name.",
        "report": "A structured report or key object note is text about the patient.",
        "presentation-state": "A presentation state carries annotations typed by a person.",
        "encapsulated-document": "An encapsulated document cannot be searched for what identifies the patient.",
        "raw-data": "Raw data has a form that only its maker knows.",
        "spectroscopy": "Spectroscopy is not an image, and there is no rule for it yet.",
        "ultrasound": "Ultrasound images show the patient's name in their frame as a rule.",
        "photograph": "A photograph or video may show the patient.",
        "waveform": "A waveform is not an image, and there is no rule for it yet.",
        "character-set": "Its Specific Character Set is no term of the standard, so it could be any text.",
        "screen-save": "The image type says that this is a saved screen, report or dose page.",
        "burned-in-annotation": "The image says that identifying text is burned into its pixels.",
        "overlay-in-pixel-data": "An overlay lies in bits of the pixel data that the image itself uses.",
        "modality-mismatch": "The modality is not the one of the storage class, so what the pixels show is not known.",
        "no-rule": "There is no rule for this kind of object.",
    }
)
"""Why an object is not exported: a sentence for each reason code of `sop_class_verdict` and `character_set_verdict`."""

_STORAGE = "1.2.840.10008.5.1.4.1.1"

EXPORTED_CLASSES: Mapping[str, str] = MappingProxyType(
    {
        f"{_STORAGE}.4": "MR",
        f"{_STORAGE}.4.1": "MR",
        f"{_STORAGE}.4.3": "MR",
        f"{_STORAGE}.4.4": "MR",
        f"{_STORAGE}.2": "CT",
        f"{_STORAGE}.2.1": "CT",
        f"{_STORAGE}.2.2": "CT",
        f"{_STORAGE}.128": "PT",
        f"{_STORAGE}.130": "PT",
        f"{_STORAGE}.128.1": "PT",
        f"{_STORAGE}.20": "NM",
    }
)
"""The image storage classes that may be exported, with the modality their instances state: MR, CT and PET, each in its
classic, enhanced and legacy converted form (MR also in color), and nuclear medicine."""

RELEASED_CLASSES = frozenset({f"{_STORAGE}.{name}" for name in ("3.1", "6.1", "7", "7.1", "7.2", "7.3", "7.4")})
"""Ultrasound and secondary capture: what a region rule of the study file may release, once it has blacked out."""

_REFUSED_FAMILIES = (
    (f"{_STORAGE}.7", "secondary-capture"),
    (f"{_STORAGE}.88", "report"),
    (f"{_STORAGE}.11", "presentation-state"),
    (f"{_STORAGE}.9.100", "presentation-state"),
    (f"{_STORAGE}.9", "waveform"),
    (f"{_STORAGE}.104", "encapsulated-document"),
    (f"{_STORAGE}.4.2", "spectroscopy"),
    (f"{_STORAGE}.3", "ultrasound"),
    (f"{_STORAGE}.6", "ultrasound"),
    (f"{_STORAGE}.77", "photograph"),
)
"""The first family whose UID root an object has names the reason; retired members are included (PS3.6 annex A)."""

_RAW_DATA = f"{_STORAGE}.66"

_SAVED_SCREEN = re.compile(
    r"\bSCREEN ?(SAVE|SHOT|CAPTURE|DUMP|GRAB)|\bCAPTURED?\b|\bREPORT\b|^DOSE\b|\bDOSE ?(INFO|RECORD|SUMMARY|SHEET)\b"
    r"|\bPATIENT ?PROTOCOL\b|^PROTOCOL$|\bPOSDISP\b"
)
"""What scanners write into Image Type for pages of text and pictures of the console; `_` and `-` count as spaces."""


def sop_class_verdict(
    sop_class_uid: str,
    image_type: Sequence[str],
    modality: str,
    conversion_type: str,
    burned_in: str,
    *,
    overlay_in_pixels: bool = False,
    released: bool = False,
) -> str | None:
    """Decide whether an object may be exported at all, before any attribute is looked at.

    Parameters
    ----------
    sop_class_uid
        SOP Class UID (0008,0016).
    image_type
        The values of Image Type (0008,0008); empty if absent.
    modality, conversion_type, burned_in
        Modality (0008,0060), Conversion Type (0008,0064) and Burned In Annotation (0028,0301); empty if absent.
    overlay_in_pixels
        True if an overlay lies in bits of the pixel data and cannot be taken out: Overlay Bit Position (60xx,0102)
        above 0, or Overlay Bits Allocated (60xx,0100) above 1 (PS3.5 section 8.1.2, retired).
    released
        True if a region rule blacks out where text stands in such images, and says that they may leave then.

    Returns
    -------
    str or None
        None if it may be exported, else a code of `REFUSAL_REASONS`. Conversion Type stands in the SC Equipment Module
        alone (PS3.3 C.8.6.1), so an image that states one is a secondary capture whatever its class says.
    """
    uid = sop_class_uid.strip(_PADDING)
    expected = EXPORTED_CLASSES.get(uid)
    if expected is None and not (released and uid in RELEASED_CLASSES):
        return _refused_family(uid)
    if burned_in.strip(_PADDING).upper() == "YES" and not released:
        return "burned-in-annotation"
    if conversion_type.strip(_PADDING) and not released:
        return "secondary-capture"
    values = [re.sub(r"[\s_-]+", " ", value).strip(_PADDING).upper() for value in image_type]
    if any(_SAVED_SCREEN.search(value) for value in values) and not released:
        return "screen-save"
    if expected is not None and modality.strip(_PADDING).upper() not in ("", expected):
        return "modality-mismatch"
    return "overlay-in-pixel-data" if overlay_in_pixels else None


def _refused_family(uid: str) -> str:
    if uid == _RAW_DATA:
        return "raw-data"
    for root, reason in _REFUSED_FAMILIES:
        if uid == root or uid.startswith(root + "."):
            return reason
    return "no-rule"


_REGISTERED = ("13", "100", "101", "109", "110", "126", "127", "138", "144", "148", "166", "203")
"""Registration numbers (ISO-IR) of the single-byte repertoires: PS3.3 tables C.12-2 and C.12-3."""

_EXTENSIONS = ("6", *_REGISTERED, "58", "87", "149", "159")
"""Those that may be switched to by escape sequences: PS3.3 tables C.12-3 and C.12-4."""

CHARACTER_SETS = frozenset(
    {
        *(f"ISO_IR {number}" for number in _REGISTERED),
        *(f"ISO 2022 IR {number}" for number in _EXTENSIONS),
        "ISO_IR 192",
        "GB18030",
        "GBK",
    }
)
"""The defined terms of Specific Character Set (0008,0005): PS3.3 section C.12.1.1.2, tables C.12-2 to C.12-5."""

MISSPELT_CHARACTER_SETS: Mapping[str, str] = MappingProxyType(
    {
        "ISO_IR 6": "ISO 2022 IR 6",
        "ISO 2022 GBK": "GBK",
        **{
            f"ISO{mark}IR {number}": f"ISO_IR {number}"
            for mark in (" ", "-")
            for number in (*(number for number in _REGISTERED if number != "203"), "192")
        },
        **{
            f"ISO{first}2022{second}IR{third}{number}": f"ISO 2022 IR {number}"
            for first, second, third in itertools.product(" -_", repeat=3)
            for number in _EXTENSIONS
            if (first, second, third) != (" ", " ", " ") and number != "203"
        },
    }
)
"""Spellings that writers use for a defined term and pydicom reads as that term: blank, hyphen and underscore in each
other's place, and one of a draft. The default repertoire has a defined term only for use with escape sequences."""


def character_set_verdict(values: Sequence[str]) -> str | None:
    """Decide whether Specific Character Set (0008,0005) says what the standard lets it say.

    It is copied as it stands, for it says how to read whatever text is kept; so it must not be free text itself. To be
    asked of the data set and of every item that states one (PS3.5 section 7.5.3).

    Parameters
    ----------
    values
        Its values; padding does no harm, and a value may be empty, as the first often is.

    Returns
    -------
    str or None
        None if each is a defined term, a known misspelling of one, or empty; else a code of `REFUSAL_REASONS`.
    """
    stripped = (value.strip(_PADDING) for value in values)
    known = all(not value or value in CHARACTER_SETS or value in MISSPELT_CHARACTER_SETS for value in stripped)
    return None if known else "character-set"
