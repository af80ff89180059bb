"""The private elements that an export keeps: which vendor's element holds what, what is done with it, and why.

Private data are the scan as much as the public ones are: diffusion directions, slice times and phase encoding stand
there. `data/private.json` lists every element that stays, each with its evidence; this module alone reads it. What it
does not list is removed, for nobody has looked at it.
"""

from __future__ import annotations

import array
import enum
import functools
import hashlib
import importlib.resources
import json
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

PRIVATE_FILE = "private.json"


class PrivateAction(enum.Enum):
    """What is done with a private element that the table lists."""

    KEEP = "keep"
    """Copy the value if `PrivateRule.admits` says so, else empty it or leave the element out."""
    UID = "uid"
    """Replace each UID by the new one that stands for it everywhere."""
    DATE = "date"
    """Shift the date (DA, DT) by the patient's number of days."""
    RECURSE = "recurse"
    """Keep the sequence; standard and private elements in its items get the full profile."""
    CSA = "csa"
    """Clean a Siemens CSA header in place."""
    PROTOCOL = "protocol"
    """Clean the measurement protocol text of Siemens XA."""
    GE_BLOCK = "ge_block"
    """Clean a GE protocol data block: `tasks.deidentify.ge.clean_protocol_block`."""
    GE_HEADER = "ge_header"
    """Clean a GE raw data header: `tasks.deidentify.ge.clean_raw_data_header`."""


_NUMBER_SIZES = {"FD": 8, "FL": 4, "OF": 4, "SL": 4, "SS": 2, "UL": 4, "US": 2}
_TEXT_REPERTOIRES = {"DS": b"0123456789+-Ee. \\\0", "IS": b"0123456789+- \\\0"}
TEXT_VRS = frozenset({"CS", "LO", "LT", "SH", "ST", "UC", "UT"})
"""The VRs whose rows state a pattern, because words fit into them."""

_ALIKE = tuple(map(frozenset, ({"US", "SS"}, {"UL", "SL"}, {"OB", "OW", "OF"}, {"DS", "IS"}, TEXT_VRS)))
"""VRs that scanners write in place of each other without the bytes meaning another thing."""

_LONGEST_CHANCE = re.compile(rb"[ -~]{16}")
"""Sixteen printable characters in a row are written by somebody: in numbers they come up once in ten million places."""

_LONGEST_TEXT = 1024
"""Bytes of a text value that is looked at: no list of terms is longer."""

_LARGEST_SAMPLE = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateRule:
    """One row of the table: a private element that stays.

    Attributes
    ----------
    creator
        The private creator that reserves the element's block (PS3.5 section 7.8.1), without padding.
    group
        The odd group.
    low
        The low byte of the element number, 00 to FF; the high byte is the block, which differs from file to file.
    vr
        The value representation, which also tells what implicit VR and UN leave out.
    action
        What is done with it.
    name
        What the element holds.
    evidence
        Why it is known to be safe under its action.
    pattern
        What the whole value has to match, padding aside; None where the VR alone leaves no room for words.
    """

    creator: str
    group: int
    low: int
    vr: str
    action: PrivateAction
    name: str
    evidence: str
    pattern: re.Pattern[bytes] | None

    def admits(self, value: bytes, vr: str = "UN") -> bool:
        """Tell whether a value may be kept as it stands.

        Parameters
        ----------
        value
            The value as it stands in the file, padding included. An empty one is always admitted.
        vr
            The VR written in the file; UN, or empty, where the file does not state it.

        Returns
        -------
        bool
            False for every action but `PrivateAction.KEEP`, because those never keep a value as it stands; False where
            the file states a VR that the value of this element cannot have.
        """
        if self.action is not PrivateAction.KEEP:
            return False
        if vr not in ("", "UN", self.vr) and not any(vr in kind and self.vr in kind for kind in _ALIKE):
            return False
        if self.pattern is not None:
            text = value.strip(b" \0")
            return not text or (len(text) <= _LONGEST_TEXT and self.pattern.fullmatch(text) is not None)
        size = _NUMBER_SIZES.get(self.vr)
        if size is None:
            return not value.translate(None, _TEXT_REPERTOIRES[self.vr])
        if len(value) % size or (len(value) >= 16 and _LONGEST_CHANCE.search(value)):
            return False
        return self.vr != "OF" or _are_samples(value)


@dataclass(frozen=True, kw_only=True)
class PrivateTable:
    """Every private element that stays.

    Attributes
    ----------
    digest
        SHA-256 of the data file, 64 hexadecimal digits.
    rules
        The rows, sorted by creator, group and element.
    by_element
        The rows by (creator, group, low byte); other spellings of a creator that scanners use lead to the same row.
    """

    digest: str
    rules: tuple[PrivateRule, ...]
    by_element: Mapping[tuple[str, int, int], PrivateRule]

    @functools.cached_property
    def reserved(self) -> frozenset[tuple[str, int]]:
        """Each creator with a group in which something of it stays."""
        return frozenset((creator, group) for creator, group, _ in self.by_element)

    def rule(self, creator: str, group: int, low: int) -> PrivateRule | None:
        """Return the row of an element, or None if the table does not list it.

        Parameters
        ----------
        creator
            The value of the private creator element of the block, padding or not.
        group
            The group of the element.
        low
            The low byte of its element number.
        """
        return self.by_element.get((creator.strip(" \0"), group, low))


@functools.cache
def load_private_table() -> PrivateTable:
    """Read the table once.

    Source: PS3.15 section E.3.10 (Retain Safe Private Option) and its table E.3.10-1; what converters read; what the
    elements hold in real files. Each row says which.
    """
    content = importlib.resources.files("tasks.deidentify").joinpath("data", PRIVATE_FILE).read_bytes()
    data = json.loads(content)
    rules = tuple(
        PrivateRule(
            creator=row["creator"],
            group=int(row["group"], 16),
            low=int(row["element"], 16),
            vr=row["vr"],
            action=PrivateAction(row["action"]),
            name=row["name"],
            evidence=row["evidence"],
            pattern=re.compile(row["pattern"].encode("ascii")) if "pattern" in row else None,
        )
        for row in data["rules"]
    )
    by_element = {(rule.creator, rule.group, rule.low): rule for rule in rules}
    for spelling, creator in data["aliases"].items():
        by_element |= {(spelling, rule.group, rule.low): rule for rule in rules if rule.creator == creator}
    return PrivateTable(
        digest=hashlib.sha256(content).hexdigest(), rules=rules, by_element=MappingProxyType(by_element)
    )


def _are_samples(value: bytes) -> bool:
    """Tell whether bytes are 32-bit numbers such as a receiver measures: compressed bytes and words are not."""
    samples = array.array("f", value)
    if sys.byteorder == "big":
        samples.byteswap()
    return all(math.isfinite(sample) and abs(sample) < _LARGEST_SAMPLE for sample in samples)
