"""Cleaning of descriptors: of a series' or protocol's name only the words of imaging stay, and the patient's own go.

A descriptor (SeriesDescription, ProtocolName, StudyDescription, SequenceName, comments, ...) is typed by people. It is
neither kept nor blanked: a token on an allow-list stays in its place and case, every other one is masked and counted
(Clean Descriptors Option, PS3.15 section E.3.5). A token is a run of letters and digits, with the point of a decimal;
everything else, underscores too, separates.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

from tasks.errors import UsageError

VOCABULARY_FILE = "vocabulary.json"

MASK = "X"
"""Stands for masked tokens, however many in a row and however long."""

LONGEST: Mapping[str, int | None] = {"LO": 64, "SH": 16, "CS": 16, "ST": 1024, "LT": 10240, "UC": None, "UT": None}
"""Characters a value of a text VR may have; None where only the length field limits it (PS3.5 table 6.2-1)."""

SEVERAL_VALUES = frozenset({"LO", "SH", "CS", "UC"})
"""The text VRs in which a backslash separates values; in ST, LT and UT it is a character."""

SHORTEST_IDENTIFIER_IN_PIECES = 3
"""An identifier of fewer characters is looked for among whole tokens only; it would be found in half of all words."""

SHORTEST_IDENTIFIER_INSIDE = 5
"""An identifier of so many characters masks every token that it is a part of."""

_TOKEN = re.compile(r"(?:[A-Za-z0-9\x80-\U0010FFFF]|(?<=[0-9])\.(?=[0-9]))+")
_UNSAFE = re.compile(r"[^ _\-.+/()\[\]:,;#*=<>^&%]")
_BESIDE = re.compile(r"[ _\->/]{1,4}")
_JOINED = re.compile(r"[ _\-=:]")
_KEYED = re.compile(r"[\-=]")
_COUNTED_ON = re.compile(r"[ _\-,/]{1,2}")
_BOUNDARY = re.compile(
    r"(?<=[a-z])(?=[A-Z0-9])|(?<=[A-Z])(?=[0-9])|(?<=[A-Z][A-Z])(?=[a-z])|(?<=[A-Z])(?=[A-Z][a-z])"
    r"|(?<=[0-9])(?=[A-Za-z.])|(?<=\.)"
)
_DIGITS = re.compile(r"[0-9]+")
_SIZE = re.compile(r"0\.|[1-9]")
_WHOLE = re.compile(r"[0-9]|[1-9][0-9]{1,2}|0[0-9]")
_DECIMAL = re.compile(r"0[.p][0-9]{1,3}|[1-9][.p](?!0[1-9]$|1[0-2]$)[0-9]{1,3}")
_PROPOSABLE = re.compile(r"(?=(?:[0-9]?[a-z]){3})[a-z]*[0-9]?[a-z]*")
_SPELLED = str.maketrans({"‐": "-", "‑": "-", "‒": "-", "–": "-", "—": "-", "−": "-", "×": "x", "μ": "u", "°": " "})
_FIELD_STRENGTHS = frozenset({"1.5", "3", "3.0", "7", "7.0", "9.4", "11.7"})


class _Kind(IntEnum):
    WORD = 0
    BOUND = 1  # a number that a word beside it explains
    NUMBER = 2
    MASKED = 3
    MARK = 4  # masked by an earlier pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleaned:
    """What a descriptor became.

    Attributes
    ----------
    text
        Plain ASCII, never empty unless there was nothing to clean.
    masked
        How many tokens were masked. Masks that the text came with do not count.
    """

    text: str
    masked: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Vocabulary:
    """What may stand in a cleaned descriptor; everything in lower case.

    Attributes
    ----------
    words
        Tokens that stay, and pieces of glued tokens if they have three letters or more.
    phrases
        Neighbouring tokens that stay beside each other only.
    pieces
        Shorter pieces of glued tokens.
    after, before
        The most digits of a whole number after a word (TE30) or before a unit (30dir).
    keys
        Words whose value may be a plain number (run-01).
    patterns
        Whole tokens that stay, such as 30x30x36.
    measure
        A number with a word of `after`, a unit of `before`, or both.
    introducers
        Words after which the next token is masked whatever it is (sub, Dr).
    unproposed
        Words that `propose` leaves out.
    digest
        SHA-256 of the data file and the study's own words, 64 hexadecimal digits.
    """

    words: frozenset[str]
    phrases: frozenset[tuple[str, ...]]
    pieces: frozenset[str]
    after: Mapping[str, int]
    before: Mapping[str, int]
    keys: frozenset[str]
    patterns: tuple[re.Pattern[str], ...]
    introducers: frozenset[str]
    unproposed: frozenset[str]
    measure: re.Pattern[str]
    digest: str

    def allows(self, token: str) -> bool:
        """Tell whether a token may stay on its own account: a word, a number, or pieces that all may."""
        return _allows(self, token)


@functools.lru_cache(maxsize=16)
def load_vocabulary(own: tuple[str, ...] = ()) -> Vocabulary:
    """Read the vocabulary and add the study's own words.

    Parameters
    ----------
    own
        Words, or several with separators between them. Accents are dropped, here and in the texts.

    Raises
    ------
    UsageError
        If one of them has a token that is no word: a number, a single letter, or letters that are not Latin.
    """
    content = importlib.resources.files("tasks.deidentify").joinpath("data", VOCABULARY_FILE).read_bytes()
    data = json.loads(content)
    phrases = frozenset(tuple(phrase.split()) for phrase in data["phrases"]["words"])
    words = {word for group in data["groups"] for word in _listed(group)}
    words |= {joined for phrase in phrases if len(joined := "".join(phrase)) > 3}
    added = sorted(_own_tokens(own))
    after, before = data["numbers"]["after"], data["numbers"]["before"]
    return Vocabulary(
        words=frozenset(words.union(added)),
        phrases=phrases,
        pieces=_listed(data["pieces"]),
        after=after,
        before=before,
        keys=_listed(data["keys"]),
        patterns=tuple(re.compile(row["pattern"], re.IGNORECASE) for row in data["patterns"]),
        introducers=_listed(data["introducers"]),
        unproposed=_listed(data["unproposed"]),
        measure=re.compile(
            rf"(?P<word>{_either(after)})?(?P<whole>[0-9]{{1,5}})(?P<part>[.p][0-9]{{1,3}})?(?P<unit>{_either(before)})?",
            re.IGNORECASE,
        ),
        digest=hashlib.sha256(content + "\n".join(added).encode("ascii")).hexdigest(),
    )


def _listed(group: Mapping[str, list[str]]) -> frozenset[str]:
    return frozenset(word for line in group["words"] for word in line.split())


def _either(words: Iterable[str]) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


def _own_tokens(own: Iterable[str]) -> set[str]:
    tokens = set()
    for number, entry in enumerate(own, 1):
        found = [match[0] for match in _TOKEN.finditer(_spelled(entry))]
        for token in found:
            if not token.isascii() or len(token) < 2 or not any(letter.isalpha() for letter in token):
                # The entry itself is not told: somebody may have listed a name by mistake.
                raise UsageError(
                    problem=f"Entry {number} of the study's vocabulary has a part that is no word",
                    remedy="Give words of two letters or more, without numbers: those are recognised by their form.",
                )
            tokens.add(token.lower())
    return tokens


def _spelled(text: str) -> str:
    """Spell a text in ASCII as far as that goes: letters lose their accents, typographic signs become plain ones."""
    if text.isascii():
        return text
    # Translated before and after: some of the signs come out of the decomposition only, and it takes some apart.
    parts = unicodedata.normalize("NFKD", text.translate(_SPELLED)).translate(_SPELLED)
    return "".join(part for part in parts if not unicodedata.combining(part))


# ---- single tokens


@functools.lru_cache(maxsize=65536)
def _allows(vocabulary: Vocabulary, token: str) -> bool:
    if not token.isascii():
        return False
    lower = token.lower()
    if lower in vocabulary.words or _is_number(lower) or _is_measure(vocabulary, lower):
        return True
    if any(pattern.fullmatch(lower) for pattern in vocabulary.patterns):
        return True
    return _is_glued(vocabulary, token)


def _is_number(token: str) -> bool:
    """Tell whether a token is a short number that is neither a date's day and month nor padded like an ID."""
    return _WHOLE.fullmatch(token) is not None or _DECIMAL.fullmatch(token) is not None


def _is_measure(vocabulary: Vocabulary, token: str) -> bool:
    match = vocabulary.measure.fullmatch(token)
    if match is None or (match["word"] is None and match["unit"] is None):
        return False
    digits = max(vocabulary.after.get(match["word"] or "", 0), vocabulary.before.get(match["unit"] or "", 0))
    return _fits(match["whole"], digits, step=5) and (match["part"] is None or len(match["whole"]) <= 3)


def _fits(whole: str, digits: int, *, step: int) -> bool:
    """Tell whether a whole number has no more than some digits, and is round if it has four or five."""
    if len(whole) > digits:
        return False
    if len(whole) <= 3:
        return True
    return whole[0] != "0" and int(whole) % (step if len(whole) == 4 else 500) == 0


def _is_glued(vocabulary: Vocabulary, token: str) -> bool:
    """Tell whether a token falls into pieces that may all stay, where its case or the kind of character changes.

    No split is looked for inside letters of one case: names would be found to be made of words there. Pieces of fewer
    than three letters have to be listed, and two of them only pass together with a longer one.
    """
    cuts = [0, *(match.start() for match in _BOUNDARY.finditer(token)), len(token)]
    if len(cuts) == 2:
        return False
    lower = token.lower()
    # What has been taken up to each cut: (kind of the last piece, short pieces so far, was there a long one).
    reached: dict[int, set[tuple[str, int, bool]]] = defaultdict(set)
    reached[0].add(("", 0, False))
    for place, start in enumerate(cuts):
        for end in cuts[place + 1 :] if reached[start] else ():
            piece = lower[start:end]
            for last, shorts, long in reached[start]:
                kind = _piece_kind(vocabulary, piece, last)
                if kind is not None:
                    reached[end].add((kind, shorts + (kind in ("short", "code")), long or kind == "long"))
    return any(long or shorts <= 1 for _, shorts, long in reached[len(token)])


def _piece_kind(vocabulary: Vocabulary, piece: str, last: str) -> str | None:
    """Name the kind of a piece after another kind; None if it may not stand there."""
    if piece.isdigit():
        digits = {"long": 2, "short": 1}.get(last, 0)
        return "number" if len(piece) <= digits else None
    if piece in vocabulary.pieces:
        # What ends in a digit takes no number: T1 and 2 would read T12.
        return "code" if piece[-1].isdigit() else "short"
    if piece in vocabulary.words and sum(letter.isalpha() for letter in piece) >= 3:
        return "long"
    if _is_measure(vocabulary, piece):
        # A letter and a digit are as easily a part of an ID, such as P2V1.
        return "code" if sum(letter.isalpha() for letter in piece) == 1 else "measure"
    return None


# ---- the patient's own identifiers


@dataclass(frozen=True, slots=True)
class _Own:
    whole: frozenset[str]
    inside: tuple[str, ...]
    longest: int


@functools.lru_cache(maxsize=1024)
def _own(identifiers: frozenset[str]) -> _Own:
    whole = frozenset(key for identifier in identifiers if (key := _key(identifier)))
    return _Own(
        whole,
        tuple(sorted(key for key in whole if len(key) >= SHORTEST_IDENTIFIER_INSIDE)),
        max(map(len, whole), default=0),
    )


def _key(text: str) -> str:
    """Reduce a text to what is compared: letters without accents and digits, in no case."""
    return "".join(letter for letter in _spelled(text).casefold() if letter.isalnum())


def _identifying(tokens: list[str], own: _Own) -> set[int]:
    """Find the tokens that are an identifier, hold one, or are one together with their neighbours."""
    found: set[int] = set()
    if not own.whole:
        return found
    keys = [_key(token) for token in tokens]
    for first, key in enumerate(keys):
        if key in own.whole or any(identifier in key for identifier in own.inside) or _holds(tokens[first], own):
            found.add(first)
        joined = key
        for last in range(first + 1, len(keys)):
            joined += keys[last]
            if len(joined) > own.longest:
                break
            if len(joined) >= SHORTEST_IDENTIFIER_IN_PIECES and joined in own.whole:
                found.update(range(first, last + 1))
    return found


def _holds(token: str, own: _Own) -> bool:
    """Tell whether an identifier stands between two boundaries of a token, as in T1Sag or 256x256."""
    cuts = [0, *(match.start() for match in _BOUNDARY.finditer(token)), len(token)]
    return any(
        end - start >= SHORTEST_IDENTIFIER_IN_PIECES and token[start:end].lower() in own.whole
        for place, start in enumerate(cuts)
        for end in cuts[place + 1 :]
    )


# ---- whole texts


def clean(
    text: str, vocabulary: Vocabulary, identifiers: frozenset[str] = frozenset(), *, limit: int | None = 64
) -> Cleaned:
    """Keep of a text what the vocabulary allows, mask the rest.

    Cleaning what is clean changes nothing. Separators stay if they are harmless; others become underscores.

    Parameters
    ----------
    text
        One value, decoded.
    vocabulary
        What may stay.
    identifiers
        The patient's own, each part of a name as an entry of its own. They are masked even if the vocabulary has them,
        in whatever case, accents or separators. One set a patient: results are remembered by it.
    limit
        The most characters the result may have; what is beyond is cut off between tokens. None for any number.
    """
    return _clean(text, vocabulary, identifiers, limit)


def clean_value(text: str, vr: str, vocabulary: Vocabulary, identifiers: frozenset[str] = frozenset()) -> Cleaned:
    """Clean a decoded value of a text VR, each of its values by itself where the VR may have several.

    Source: PS3.5 table 6.2-1 for lengths, section 6.4 for several values.
    """
    limit = LONGEST.get(vr, LONGEST["LO"])
    values = text.split("\\") if vr in SEVERAL_VALUES else [text]
    cleaned = [_clean(value, vocabulary, identifiers, limit) for value in values]
    return Cleaned(text="\\".join(value.text for value in cleaned), masked=sum(value.masked for value in cleaned))


@functools.lru_cache(maxsize=65536)
def mask_known(text: str, identifiers: frozenset[str]) -> str:
    """Mask in a text that is else kept as it stands the tokens that are, hold or together make one of the identifiers.

    Each letter of such a token becomes a mask, so that the text keeps its length; what has none comes back as it was.
    """
    own = _own(identifiers)
    matches = list(_TOKEN.finditer(text))
    masked = list(text)
    for place in _identifying([_spelled(match[0]) for match in matches], own):
        start, end = matches[place].span()
        masked[start:end] = MASK * (end - start)
    return "".join(masked)


@functools.lru_cache(maxsize=65536)
def _clean(text: str, vocabulary: Vocabulary, identifiers: frozenset[str], limit: int | None) -> Cleaned:
    own = _own(identifiers)
    masked = 0
    # Masking takes neighbours away that a phrase or a number stood by, so it goes on until nothing changes.
    current = _spelled(text)
    for _ in range(8):
        cleaned, count = _pass(current, vocabulary, own, limit)
        masked += count
        if cleaned == current:
            return Cleaned(text=cleaned, masked=masked)
        current = cleaned
    return Cleaned(text=MASK, masked=masked)


def _pass(text: str, vocabulary: Vocabulary, own: _Own, limit: int | None) -> tuple[str, int]:
    """Mask once; return the text and the number of tokens masked."""
    matches = list(_TOKEN.finditer(text))
    tokens = [match[0] for match in matches]
    ends = [0, *(match.end() for match in matches)]
    starts = [*(match.start() for match in matches), len(text)]
    # gaps[i] stands before token i; the last one ends the text.
    gaps = [text[end:start] for end, start in zip(ends, starts, strict=True)]

    kinds = [_kind(vocabulary, token) for token in tokens]
    _explain_by_neighbours(vocabulary, tokens, gaps, kinds)
    _mask_introduced(vocabulary, tokens, gaps, kinds)
    for place in _identifying(tokens, own):
        if kinds[place] is not _Kind.MARK:
            kinds[place] = _Kind.MASKED
    _mask_numbers(tokens, gaps, kinds)
    return _written(tokens, gaps, kinds, limit), kinds.count(_Kind.MASKED)


def _kind(vocabulary: Vocabulary, token: str) -> _Kind:
    if token == MASK:
        return _Kind.MARK
    if _is_number(token):
        return _Kind.NUMBER
    return _Kind.WORD if _allows(vocabulary, token) else _Kind.MASKED


def _explain_by_neighbours(vocabulary: Vocabulary, tokens: list[str], gaps: list[str], kinds: list[_Kind]) -> None:
    """Let tokens pass that mean something by what stands beside them."""
    # A mask explains nothing; the x of a size is a small one.
    lower = [token.lower() if token != MASK else "" for token in tokens]
    for first in range(len(tokens) - 1):
        gap = gaps[first + 1]
        for size in (3, 2):
            some = tuple(lower[first : first + size])
            if some in vocabulary.phrases and all(map(_BESIDE.fullmatch, gaps[first + 1 : first + len(some)])):
                kinds[first : first + size] = [_Kind.BOUND if word.isdigit() else _Kind.WORD for word in some]
        if lower[first] in vocabulary.keys and _KEYED.fullmatch(gap) and kinds[first + 1] is _Kind.NUMBER:
            kinds[first + 1] = _Kind.BOUND
        if _JOINED.fullmatch(gap):
            _join_number(vocabulary, lower, kinds, first)
        if _COUNTED_ON.fullmatch(gap):
            _join_b_value(lower, kinds, first)
        if lower[first : first + 3][1:2] == ["x"]:
            _join_size(vocabulary, lower, kinds, first)


def _join_number(vocabulary: Vocabulary, lower: list[str], kinds: list[_Kind], first: int) -> None:
    """Let a word and its number pass (TR 2000, b=1000), or a number and its unit (2 mm, 3 T)."""
    one, other = lower[first : first + 2]
    if _DIGITS.fullmatch(other) and (len(one) > 1 or one == "b"):
        fits = _fits(other, vocabulary.after.get(one, 0), step=50)
    elif other == "t":
        fits = one in _FIELD_STRENGTHS
    elif len(other) > 1 and other in vocabulary.before:
        whole = _DIGITS.fullmatch(one)
        fits = _fits(one, vocabulary.before[other], step=50) if whole else _is_number(one)
    else:
        fits = False
    if fits:
        for place in (first, first + 1):
            kinds[place] = _Kind.BOUND if lower[place][0].isdigit() else _Kind.WORD


def _join_b_value(lower: list[str], kinds: list[_Kind], first: int) -> None:
    """Let the b-values after the first pass (b0_1000)."""
    one, other = lower[first : first + 2]
    first_is_b_value = re.fullmatch("b[0-9]+", one) or (
        _DIGITS.fullmatch(one) and kinds[first] is _Kind.BOUND and first and re.fullmatch("b[0-9]*", lower[first - 1])
    )
    if first_is_b_value and _DIGITS.fullmatch(other) and len(other) > 3 and _fits(other, 5, step=50):
        kinds[first + 1] = _Kind.BOUND


def _join_size(vocabulary: Vocabulary, lower: list[str], kinds: list[_Kind], first: int) -> None:
    """Let the x pass between two numbers, with or without units (2 x 2 mm)."""
    sizes = (first, first + 2)
    if first + 2 < len(lower) and all(_SIZE.match(lower[place]) and vocabulary.allows(lower[place]) for place in sizes):
        kinds[first + 1] = _Kind.WORD
        for place in sizes:
            kinds[place] = _Kind.BOUND


def _mask_introduced(vocabulary: Vocabulary, tokens: list[str], gaps: list[str], kinds: list[_Kind]) -> None:
    """Mask what follows a word such as `Dr`; of these words only the key of `sub-...` and `ses-...` stays."""
    introduced = False
    for place, token in enumerate(tokens):
        announces = token.lower() in vocabulary.introducers
        if announces or introduced:
            followed = place + 1 < len(tokens)
            stays = not introduced and followed and token.lower() in ("sub", "ses") and gaps[place + 1] == "-"
            if kinds[place] is not _Kind.MARK:
                kinds[place] = _Kind.WORD if stays else _Kind.MASKED
        introduced = announces


def _mask_numbers(tokens: list[str], gaps: list[str], kinds: list[_Kind]) -> None:
    """Mask plain numbers that may together be a date, a telephone number or an ID, and what goes with a mask.

    Beside a mask a number may be its other half (a date's day, an ID's end), and a single letter an initial.
    """
    numbers = (_Kind.NUMBER, _Kind.BOUND)
    start = 0
    while start < len(tokens):
        end = start + 1
        if kinds[start] in numbers:
            while end < len(tokens) and kinds[end] in numbers:
                end += 1
            if _Kind.NUMBER in kinds[start:end] and _suspect(tokens[start:end], gaps[start + 1 : end + 1]):
                kinds[start:end] = [_Kind.MASKED] * (end - start)
        start = end
    masked = (_Kind.MASKED, _Kind.MARK)
    for places in (range(1, len(tokens)), range(len(tokens) - 2, -1, -1)):
        for place in places:
            beside = place - places.step
            weak = kinds[place] is _Kind.NUMBER or (len(tokens[place]) == 1 and kinds[place] is _Kind.WORD)
            if weak and kinds[beside] in masked:
                kinds[place] = _Kind.MASKED


def _suspect(run: list[str], gaps: list[str]) -> bool:
    """Tell whether numbers in a row, each with the gap behind it, may be a date or an ID."""
    decimals = [not number.isdigit() for number in run]
    if len(run) == 1:
        # 4.8. is how a day and a month are written in half of Europe.
        return decimals[0] and run[0][0] != "0" and gaps[0].startswith(".")
    if all(decimals):
        return len(run) > 3
    if len(run) > 2 or any(decimals) or ":" in gaps[0]:
        return True
    lengths = [len(number) for number in run]
    may_be_month = 1 <= min(map(int, run)) <= 12
    return sum(lengths) >= 5 or (max(lengths) == 2 and may_be_month)


def _written(tokens: list[str], gaps: list[str], kinds: list[_Kind], limit: int | None) -> str:
    """Write the text again, masks merged; what does not fit is left off at a token's end."""
    parts: list[tuple[str, str]] = []
    masked = False
    for token, gap, kind in zip(tokens, gaps, kinds, strict=False):
        if kind < _Kind.MASKED:
            parts.append((_UNSAFE.sub("_", gap), token))
            masked = False
        elif not masked:
            parts.append((_UNSAFE.sub("_", gap), MASK))
            masked = True
    parts.append((_UNSAFE.sub("_", gaps[-1]), ""))
    text = ""
    for gap, token in parts:
        if limit is not None and len(text) + len(gap) + len(token) > limit:
            text = (text + gap)[:limit].rstrip(" _-") if tokens else (text + gap)[:limit]
            break
        text += gap + token
    return text if text.strip() or not tokens else MASK


# ---- what a study may want to add


def propose(
    texts: Iterable[tuple[str, str]], vocabulary: Vocabulary, identifiers: Iterable[str], *, at_least: int = 2
) -> list[tuple[str, int]]:
    """List unknown words of the descriptors, most frequent first, for a person to choose additions from.

    Parameters
    ----------
    texts
        (patient, text) pairs, in any order; the patient only serves to count.
    vocabulary
        What is known.
    identifiers
        Those of all patients. A token that is one or holds one is never proposed, nor is one that follows an
        introducer, looks like an ID (two digits or more), belongs to a date or is a single letter or two.
    at_least
        Of how many patients a token must come. What one patient alone has is more often a name than a word.

    Returns
    -------
    list of (token, patients)
        Tokens in lower case, without accents.
    """
    keys = {key for identifier in identifiers if len(key := _key(identifier)) >= SHORTEST_IDENTIFIER_IN_PIECES}
    patients: dict[str, set[str]] = defaultdict(set)
    for patient, text in set(texts):
        introduced = False
        for match in _TOKEN.finditer(_spelled(text)):
            token = match[0].lower()
            announces = token in vocabulary.introducers
            if not announces and not introduced and _PROPOSABLE.fullmatch(token) and not vocabulary.allows(match[0]):
                patients[token].add(patient)
            introduced = announces
    count = Counter({token: len(some) for token, some in patients.items()})
    return sorted(
        (
            (token, number)
            for token, number in count.items()
            if number >= at_least and token not in vocabulary.unproposed and not any(key in token for key in keys)
        ),
        key=lambda row: (-row[1], row[0]),
    )
