"""What a converted image is called in the BIDS data set: ReproIn names, the study's rules, the converter's guess.

An image gets a name below a data type only if BIDS knows the name and the image has what BIDS requires of such images;
all others lie below `other`, each with the reason.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tasks.review.bids_standard import (
    COMPUTED_SUFFIXES,
    ENTITIES,
    GRADIENT_ECHO_FIELDMAPS,
    INDEX_FIELDS,
    KNOWN_NAMES,
    LONGEST_LABEL,
    SINGLE_VOLUME_SUFFIXES,
    NameShape,
    accepted_fields,
    is_label,
    missing_fields,
    naming_fault,
)

SOURCES: dict[str, str] = {
    "reproin": "the protocol's name, which follows ReproIn",
    "rule": "a rule of the study file",
    "guess": "the converter's guess from the header",
    "none": "nothing: the image has no place in BIDS",
}
"""What a name was taken from."""

OTHER = "other"
"""The folder of a session for images that have no place in BIDS."""

UNNAMED_TASK = "unnamed"
"""The task of functional images of which only this is known: it was not named."""

_TELLING_APART = (*INDEX_FIELDS, "part")
"""Entities that tell the images of one acquisition apart."""

_LONGEST_NAME = 200


# -- records -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class NamingRule:
    """What one kind of image is called.

    A pattern knows `*`, `?` and `[...]`, case is ignored, and one that is left out (None) fits anything.

    Attributes
    ----------
    bids
        Data type, slash, entities and suffix, as in `func/task-rest_bold`; see `naming_fault`.
    description
        Pattern of SeriesDescription or ProtocolName.
    image_type
        Of ImageType, its values joined by backslashes.
    sequence
        Of ScanningSequence, its values joined by backslashes, or of a name of the pulse sequence.
    echo
        EchoNumber; an image that states none is echo 1.
    """

    bids: str
    description: str | None = None
    image_type: str | None = None
    sequence: str | None = None
    echo: int | None = None

    def fits(self, image: ImageFacts) -> bool:
        """Tell whether the rule is about an image."""
        sidecar = image.sidecar
        texts = (_text(sidecar, "SeriesDescription"), _text(sidecar, "ProtocolName"))
        sequences = (
            _text(sidecar, "ScanningSequence"),
            *(_text(sidecar, name) for name in ("PulseSequenceName", "SequenceName", "InternalPulseSequenceName")),
        )
        return (
            _fits(self.description, texts)
            and _fits(self.image_type, (_text(sidecar, "ImageType"),))
            and _fits(self.sequence, sequences)
            and self.echo in (None, _echo_number(image))
        )


def _fits(pattern: str | None, texts: Iterable[str]) -> bool:
    if pattern is None:
        return True
    return any(fnmatch.fnmatchcase(text.casefold(), pattern.casefold()) for text in texts)


def _text(sidecar: Mapping[str, Any], name: str) -> str:
    value = sidecar.get(name)
    if isinstance(value, list):
        return "\\".join(piece.strip() for piece in value if isinstance(piece, str))
    return value.strip() if isinstance(value, str) else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """What a name is made from.

    Attributes
    ----------
    key
        Tells the image from all others of the study: entry id and number.
    subject, visit
        Folders in the export.
    series_number
        As the scanner counted.
    kind
        What the converter's ending says, as `ConvertedImage.kind`.
    sidecar
        Of the converter, or what is released of it.
    has_directions
        Whether b-values and directions lie beside it.
    volumes, slices
        Along the fourth and third axis of the file; 0 slices if not known.
    """

    key: str
    subject: str
    visit: str
    series_number: int
    kind: str
    sidecar: Mapping[str, Any]
    has_directions: bool
    volumes: int
    slices: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BidsName:
    """What an image is called.

    Attributes
    ----------
    path
        Below the data set, with forward slashes, without ending.
    source
        A key of `SOURCES`.
    datatype, suffix
        `OTHER` and empty if it has no place in BIDS.
    entities
        In the name's order, sub and ses among them.
    reason
        Why it has no place, or what was assumed; else empty. It holds no text of a header.
    """

    path: str
    source: str
    datatype: str
    suffix: str
    entities: Mapping[str, str] = field(hash=False)
    reason: str = ""


# -- labels ------------------------------------------------------------------------------------------------------------

_MARKED = re.compile(r".*x[0-9a-f]{10}", re.IGNORECASE)
_PLAIN = re.compile(r"[A-Za-z0-9]+(-[0-9]+)?")


def distinct_labels(texts: Iterable[str], prefix: str) -> dict[str, str]:
    """Give each text a label of letters and digits, and no two texts the same one, even where case is ignored.

    A leading `prefix`, such as `ses-`, is no part of the label, and `SUB-0001` becomes `SUB0001`. A label from which
    anything else was dropped, or that several texts would have, ends in `x` and ten digits of the text's SHA-256.
    """
    bare = {text: text.removeprefix(prefix) for text in texts}
    plain = {text: re.sub(r"[^A-Za-z0-9]", "", rest) for text, rest in bare.items()}
    claims = Counter(label.casefold() for label in plain.values())
    labels = {}
    for text, label in plain.items():
        kept = _PLAIN.fullmatch(bare[text]) and len(label) <= LONGEST_LABEL and not _MARKED.fullmatch(label)
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        alone = claims[label.casefold()] == 1
        labels[text] = label if kept and alone else f"{label[: LONGEST_LABEL - 11]}x{digest[:10]}"
    return labels


# -- reading a name ----------------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class _Draft:
    """A name in the making."""

    facts: ImageFacts
    sidecar: Mapping[str, Any]
    source: str = "none"
    datatype: str = ""
    suffix: str = ""
    entities: dict[str, str] = field(default_factory=dict)
    stated_run: str = ""
    run: str = ""
    acquisition: int = 0
    refused: str = ""
    assumed: str = ""

    @property
    def shape(self) -> NameShape:
        return KNOWN_NAMES[self.datatype][self.suffix]

    @property
    def family(self) -> tuple[object, ...]:
        """Images of one family and run belong together: all echoes, magnitude and phase, a reference and its series."""
        kin = self.suffix
        if self.datatype == "func" or (self.datatype == "dwi" and self.suffix in ("dwi", "sbref")):
            kin = self.datatype
        elif self.suffix in GRADIENT_ECHO_FIELDMAPS:
            kin = "gre"
        own = ((entity, label.casefold()) for entity, label in self.entities.items() if entity not in _TELLING_APART)
        return (self.datatype, kin, *sorted(own))

    @property
    def slot(self) -> tuple[str, ...]:
        """What tells it from the other images of its family and run."""
        return (self.suffix, *(self.entities.get(entity, "").casefold() for entity in _TELLING_APART))


_REPROIN_START = re.compile(r"(?:[A-Z]*:)?\s*(?:(?:WIP|X)[ _])?\s*")
_INDEX_OF_KIND = re.compile(r"e([0-9]{1,3})")
_RESTING = frozenset(("rest", "resting", "restingstate", "rs", "rsfmri", "rsbold", "rsepi"))
_SCOUTS = frozenset(("scout", "aahscout", "localizer", "localiser", "survey"))
_DEFAULT_SUFFIX = {"anat": "T1w", "func": "bold", "dwi": "dwi", "fmap": "epi", "perf": "asl"}
_DERIVED_TYPES = frozenset(
    (
        *("derived", "adc", "fa", "expadc", "colfa", "trace", "tracew", "tensor", "moco", "mpr", "csa mpr"),
        *("mip", "minip", "mip_sag", "mip_cor", "mip_tra"),
    )
)
_CONVERTER_COMPUTED = re.compile(r"eq|tilt|adc|moco|crop|roi[0-9]*")
_WITHOUT_NAME = frozenset(("norf", "phmag", "mrsref"))
"""Kinds that share a series with ordinary images and are none: noise, mixed parts, a spectroscopic reference."""


def _words(sidecar: Mapping[str, Any]) -> frozenset[str]:
    text = f"{_text(sidecar, 'ProtocolName')} {_text(sidecar, 'SeriesDescription')}"
    return frozenset(re.findall(r"[a-z]+", text.casefold()))


def _image_types(sidecar: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(_text(sidecar, "ImageType").casefold().split("\\"))


def _echo_number(image: ImageFacts) -> int:
    number = image.sidecar.get("EchoNumber")
    if isinstance(number, int) and not isinstance(number, bool) and 0 < number < 1000:
        return number
    for token in image.kind.split("-"):
        if found := _INDEX_OF_KIND.fullmatch(token):
            return int(found[1]) or 1
    return 1


def _part(image: ImageFacts) -> str:
    tokens = {*image.kind.split("-"), *_image_types(image.sidecar)}
    for part, signs in (("phase", {"ph", "phase"}), ("real", {"real"}), ("imag", {"imaginary"})):
        if tokens & signs:
            return part
    return "mag"


def _label(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "", text)[:LONGEST_LABEL]


def _read_reproin(text: str) -> tuple[str, str, dict[str, str]] | None:
    """Read a ReproIn name: data type, suffix (may be empty) and entities as they stand there; None if it is none.

    The grammar is that of HeuDiConv's heuristic `reproin` (github.com/ReproNim/reproin). A name that begins with a data
    type is one if its suffix is known, or if it has an entity; so `dwi-64dir` is none.
    """
    spec = text.strip()
    start = _REPROIN_START.match(spec)
    spec = spec[start.end() if start else 0 :].split("__", 1)[0]
    first, *pieces = spec.split("_")
    if first == "bids" and pieces:
        first, *pieces = pieces
    datatype, _, suffix = first.strip().partition("-")
    if datatype == "scout" or suffix.startswith("scout"):
        return (OTHER, "scout", {})
    if datatype not in KNOWN_NAMES:
        return None
    entities: dict[str, str] = {}
    for piece in pieces:
        entity, joined, label = piece.partition("-")
        if joined and entity in ENTITIES:
            entities[entity] = label
        elif not joined and not suffix and piece.strip() in KNOWN_NAMES[datatype]:
            suffix = piece.strip()
    if suffix in KNOWN_NAMES[datatype] or not suffix or entities:
        return (datatype, suffix, entities)
    return None


def _read_guess(sidecar: Mapping[str, Any]) -> tuple[str, str, dict[str, str]] | None:
    """Read dcm2niix's BidsGuess, such as ["func", "_acq-epfid2_dir-AP_run-3_bold"]."""
    guess = sidecar.get("BidsGuess")
    if not isinstance(guess, list) or len(guess) != 2 or not all(isinstance(part, str) for part in guess):
        return None
    *pieces, suffix = guess[1].split("_")
    # Its runs are series numbers; what tells images of one acquisition apart is read from the sidecar itself.
    unwanted = {"sub", "ses", "run", *_TELLING_APART}
    entities = dict(piece.split("-", 1) for piece in pieces if "-" in piece)
    return (guess[0], suffix, {name: label for name, label in entities.items() if name not in unwanted})


def _draft(image: ImageFacts, rules: Sequence[NamingRule]) -> _Draft:
    draft = _Draft(facts=image, sidecar=accepted_fields(image.sidecar))
    kinds = image.kind.split("-")
    if any(map(_CONVERTER_COMPUTED.fullmatch, kinds)):
        draft.refused = "The converter computed it from the series."
        return draft
    if not _WITHOUT_NAME.isdisjoint(kinds):
        draft.refused = "It is an image of a special kind within its series."
        return draft
    if _text(image.sidecar, "Modality") not in ("", "MR"):
        draft.refused = "It is no magnetic resonance image."
        return draft

    rule = next((rule for rule in rules if rule.fits(image)), None)
    for text in (_text(image.sidecar, "ProtocolName"), _text(image.sidecar, "SeriesDescription")):
        if reading := _read_reproin(text):
            _take_reproin(draft, *reading)
            break
    if rule is not None and (draft.source == "none" or draft.refused):
        _take_rule(draft, rule)
    if draft.source == "none":
        _take_guess(draft)
    meant = draft.suffix in COMPUTED_SUFFIXES or (draft.source == "rule" and rule and rule.image_type)
    if not meant and (not draft.refused or draft.source == "none") and _image_types(image.sidecar) & _DERIVED_TYPES:
        draft.refused = "The scanner computed it from other images."
    if not draft.refused:
        _complete(draft)
    return draft


def _take_reproin(draft: _Draft, datatype: str, suffix: str, entities: dict[str, str]) -> None:
    draft.source = "reproin"
    if datatype == OTHER:
        draft.refused = "It is a localizer, by the protocol's name."
        return
    image = draft.facts
    if not suffix:
        guess = _read_guess(image.sidecar)
        suffix = guess[1] if guess and guess[0] == datatype else ""
        if suffix not in KNOWN_NAMES[datatype]:
            suffix = _default_suffix(datatype, image)
    if suffix not in KNOWN_NAMES[datatype]:
        draft.refused = "The protocol's name has a suffix that BIDS does not know in its data type."
        return
    draft.datatype, draft.suffix = datatype, suffix
    run = entities.pop("run", "")
    # `run+` and `run=` stand without a hyphen: such runs are counted like those that are not stated.
    draft.stated_run = run if is_label("run", run) else ""
    allowed = draft.shape.allowed - {"sub", "ses", "run"}
    cleaned = {name: _label(label) for name, label in entities.items() if name in allowed}
    draft.entities = {name: label for name, label in cleaned.items() if is_label(name, label)}


def _default_suffix(datatype: str, image: ImageFacts) -> str:
    if datatype != "fmap" or "EP" in _text(image.sidecar, "ScanningSequence"):
        return _DEFAULT_SUFFIX[datatype]
    if _part(image) != "phase":
        return "magnitude"
    return "phasediff" if "EchoTime2" in image.sidecar else f"phase{_echo_number(image)}"


def _take_rule(draft: _Draft, rule: NamingRule) -> None:
    draft.source = "rule"
    draft.refused = naming_fault(rule.bids)
    if draft.refused:
        return
    draft.datatype, _, rest = rule.bids.partition("/")
    *pieces, draft.suffix = rest.split("_")
    draft.entities = dict(piece.split("-", 1) for piece in pieces)
    draft.stated_run = draft.entities.pop("run", "")


def _take_guess(draft: _Draft) -> None:
    reading = _read_guess(draft.facts.sidecar)
    if reading is None:
        draft.refused = "No rule of the study file fits, and the converter has no guess."
        return
    datatype, suffix, entities = reading
    if datatype == "discard" or _words(draft.facts.sidecar) & _SCOUTS or suffix == "localizer":
        draft.refused = "It is a localizer."
    elif datatype == "derived":
        draft.refused = "The scanner computed it from other images."
    elif suffix not in KNOWN_NAMES.get(datatype, {}):
        draft.refused = "The converter's guess is no name that BIDS knows."
    elif draft.facts.slices == 1:
        draft.refused = "It has a single slice."
    if draft.refused:
        return
    draft.source, draft.datatype, draft.suffix = "guess", datatype, suffix
    cleaned = {name: _label(label) for name, label in entities.items() if name in draft.shape.allowed}
    draft.entities = {name: label for name, label in cleaned.items() if is_label(name, label)}


def _complete(draft: _Draft) -> None:
    """Add what the header tells of an image whose data type and suffix are known."""
    image, words = draft.facts, _words(draft.facts.sidecar)
    if image.volumes == 1 and "sbref" in words and draft.suffix in ("bold", "cbv", "dwi"):
        draft.suffix = "sbref"
    if draft.datatype == "func" and "task" not in draft.entities:
        draft.entities["task"] = "rest" if words & _RESTING else UNNAMED_TASK
        draft.assumed = "The task is taken from the description."
        if draft.entities["task"] == UNNAMED_TASK:
            draft.assumed = "The task is not known."
    if draft.suffix == "epi" and "dir" not in draft.entities:
        guess = _read_guess(image.sidecar)
        direction = _label(guess[2].get("dir", "")) if guess else ""
        if direction:
            draft.entities["dir"] = direction


# -- telling images of a session apart ---------------------------------------------------------------------------------


def name_images(images: Iterable[ImageFacts], rules: Sequence[NamingRule] = ()) -> dict[str, BidsName]:
    """Name all images of a study: a function of what they are, not of the order in which they come.

    Images of one session that would share a name become `run-1`, `run-2`, ... in the order of their series numbers; the
    echoes and the parts of a complex image share a run, and so do a series and its single-band reference.

    Parameters
    ----------
    images
        All of the study: a subject's label hangs on the others, see `distinct_labels`.
    rules
        The first that fits counts.

    Returns
    -------
    dict
        Name by `ImageFacts.key`, in the keys' order. No two share a path, even where case is ignored.

    Raises
    ------
    ValueError
        If two images have one key.
    """
    sessions: dict[tuple[str, str], list[ImageFacts]] = defaultdict(list)
    visits: dict[str, set[str]] = defaultdict(set)
    keys = set()
    for image in images:
        if image.key in keys:
            raise ValueError("two images have one key")
        keys.add(image.key)
        sessions[image.subject, image.visit].append(image)
        visits[image.subject].add(image.visit)
    subject_labels = distinct_labels(visits, "sub-")
    visit_labels = {subject: distinct_labels(its_own, "ses-") for subject, its_own in visits.items()}
    names: dict[str, BidsName] = {}
    for (subject, visit), members in sessions.items():
        session = {"sub": subject_labels[subject], "ses": visit_labels[subject][visit]}
        names.update(_name_session(sorted(members, key=_acquisition_order), rules, session))
    return {key: names[key] for key in sorted(names)}


def _acquisition_order(image: ImageFacts) -> tuple[object, ...]:
    pieces = re.split(r"([0-9]+)", image.key)
    return (image.series_number, [(piece.zfill(20) if piece.isdecimal() else piece) for piece in pieces], image.key)


def _name_session(
    images: Sequence[ImageFacts], rules: Sequence[NamingRule], session: Mapping[str, str]
) -> Iterator[tuple[str, BidsName]]:
    """Name the images of one session, which come in the order of their acquisition."""
    drafts = [_draft(image, rules) for image in images]
    for family in _families(drafts):
        for suffix in sorted({draft.suffix for draft in family}):
            _tell_apart([draft for draft in family if draft.suffix == suffix])
    for draft in drafts:
        if not draft.refused:
            draft.refused = _missing(draft)
    unsettled = True
    while unsettled:
        unsettled = False
        for family in _families(drafts):
            _count_runs(family)
            unsettled |= _refuse_fieldmaps_alone(family)
    others: dict[str, int] = defaultdict(int)
    for draft in drafts:
        name = _placed(draft, session) if not draft.refused else None
        yield draft.facts.key, name or _other(draft, session, others)


def _families(drafts: Iterable[_Draft]) -> list[list[_Draft]]:
    families: dict[tuple[object, ...], list[_Draft]] = defaultdict(list)
    for draft in drafts:
        if not draft.refused:
            families[draft.family].append(draft)
    return list(families.values())


def _tell_apart(drafts: Sequence[_Draft]) -> None:
    """Give images of one suffix the entities that tell echoes, parts, inversions and flip angles apart."""
    suffix, shape = drafts[0].suffix, drafts[0].shape
    numbers = {_echo_number(draft.facts) for draft in drafts}
    if suffix == "magnitude" and len(numbers) > 1:
        for draft in drafts:
            draft.suffix = f"magnitude{_echo_number(draft.facts)}"
            if draft.suffix not in KNOWN_NAMES["fmap"]:
                draft.refused = "BIDS knows magnitude images of two echoes only."
        return
    for entity, name in INDEX_FIELDS.items():
        open_ones = [draft for draft in drafts if entity not in draft.entities and name in draft.sidecar]
        if entity == "echo" and entity in shape.allowed and len(numbers) > 1:
            for draft in open_ones:
                draft.entities["echo"] = str(_echo_number(draft.facts))
        elif entity == "mt" and entity in shape.required:
            for draft in open_ones:
                draft.entities["mt"] = "on" if draft.sidecar[name] else "off"
        elif entity in shape.required:
            values = sorted({_first_number(draft.sidecar[name]) for draft in open_ones})
            for draft in open_ones:
                draft.entities[entity] = str(values.index(_first_number(draft.sidecar[name])) + 1)
    if "part" in shape.allowed:
        parts = {_part(draft.facts) for draft in drafts}
        for draft in drafts:
            if parts != {"mag"}:
                draft.entities.setdefault("part", _part(draft.facts))


def _first_number(value: Any) -> float:
    return float(value[0] if isinstance(value, list) else value)


def _count_runs(drafts: Sequence[_Draft]) -> None:
    """Put the images of one family, in the order of their acquisition, into runs.

    Stated runs stay with the image that claims them first. Any other image joins the latest acquisition in which its
    slot is free, or begins a new one; these are counted on from the stated ones.
    """
    taken: set[tuple[int, tuple[str, ...]]] = set()
    counted: list[_Draft] = []
    for draft in drafts:
        draft.acquisition = int(draft.stated_run) if draft.stated_run else -1
        if draft.acquisition < 0 or (draft.acquisition, draft.slot) in taken:
            counted.append(draft)
        else:
            taken.add((draft.acquisition, draft.slot))
            draft.run = draft.stated_run
    width = max((len(draft.stated_run) for draft in drafts), default=1)
    last_stated = max((number for number, _ in taken), default=0)
    last = last_stated
    for draft in counted:
        for number in range(last, last_stated, -1):
            if (number, draft.slot) not in taken:
                draft.acquisition = number
                break
        else:
            last += 1
            draft.acquisition = last
        taken.add((draft.acquisition, draft.slot))
        draft.run = f"{draft.acquisition:0{width}d}"
    if {number for number, _ in taken} == {1} and len(counted) == len(drafts):
        for draft in counted:
            draft.run = ""


def _refuse_fieldmaps_alone(drafts: Sequence[_Draft]) -> bool:
    """Refuse fieldmaps in hertz without a magnitude image of the same run; tell whether there were any."""
    magnitudes = {draft.run for draft in drafts if draft.suffix == "magnitude"}
    alone = [draft for draft in drafts if draft.suffix == "fieldmap" and draft.run not in magnitudes]
    for draft in alone:
        draft.refused = "It is a fieldmap without a magnitude image."
    return bool(alone)


def _missing(draft: _Draft) -> str:
    """Say what BIDS requires of such an image and this one has not; empty if it has all."""
    sidecar, image, suffix = draft.sidecar, draft.facts, draft.suffix
    without = sorted(draft.shape.required - draft.entities.keys())
    if without:
        return f"BIDS requires the entity {', '.join(without)} of such an image, which the header does not tell."
    if absent := missing_fields(draft.datatype, suffix, draft.entities, sidecar):
        return f"BIDS requires {', '.join(absent)} of such an image, which the header does not state."
    if suffix == "phasediff" and not 0.0001 <= sidecar["EchoTime2"] - sidecar["EchoTime1"] <= 0.01:
        return "The echo times of the phase difference are not those of two neighbouring echoes."
    if suffix == "dwi" and not image.has_directions:
        return "It has no b-values and directions."
    if suffix == "bold" and image.volumes < 2:
        return "It is a single volume, and no series."
    if suffix in SINGLE_VOLUME_SUFFIXES and image.volumes > 1:
        return "It has several volumes, and BIDS takes one of such images."
    return ""


# -- the name itself ---------------------------------------------------------------------------------------------------


def _placed(draft: _Draft, session: Mapping[str, str]) -> BidsName | None:
    labels = {**draft.entities, **session}
    if draft.run:
        labels["run"] = draft.run
    entities = {entity: labels[entity] for entity in ENTITIES if entity in labels}
    name = "_".join((*(f"{entity}-{label}" for entity, label in entities.items()), draft.suffix))
    if len(name) > _LONGEST_NAME:
        draft.refused = "Its name would be too long."
        return None
    return BidsName(
        path=f"{_folder(session)}/{draft.datatype}/{name}",
        source=draft.source,
        datatype=draft.datatype,
        suffix=draft.suffix,
        entities=entities,
        reason=draft.assumed,
    )


def _folder(session: Mapping[str, str]) -> str:
    return f"sub-{session['sub']}/ses-{session['ses']}"


def _other(draft: _Draft, session: Mapping[str, str], others: dict[str, int]) -> BidsName:
    kind = _label(draft.facts.kind) or "image"
    name = f"sub-{session['sub']}_ses-{session['ses']}_series-{abs(draft.facts.series_number):03d}_{kind}"
    others[name.casefold()] += 1
    number = others[name.casefold()]
    return BidsName(
        path=f"{_folder(session)}/{OTHER}/{name}" + (f"-{number}" if number > 1 else ""),
        source="none",
        datatype=OTHER,
        suffix="",
        entities=dict(session),
        reason=draft.refused,
    )


# -- the sidecar -------------------------------------------------------------------------------------------------------


def bids_sidecar(name: BidsName, sidecar: Mapping[str, Any]) -> dict[str, Any]:
    """Return what stands in the JSON file beside an image: its released sidecar, and what BIDS requires in addition.

    Fields whose values BIDS rejects are left out. The converter's guess stays only where the name was taken from it.
    """
    fields = accepted_fields(sidecar)
    if name.source != "guess":
        fields.pop("BidsGuess", None)
    if name.datatype == "func":
        fields["TaskName"] = name.entities["task"]
        if name.reason:
            fields["TaskDescription"] = name.reason
    if name.entities.get("part") == "phase" and fields.get("Units") not in ("rad", "arbitrary"):
        fields["Units"] = "arbitrary"
    return fields
