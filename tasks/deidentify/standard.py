"""The standard's own tables as data: what PS3.15 protects, and the type that PS3.3 gives each attribute in its IOD.

`.ci/make_standard_tables.py` writes the files and names their sources in them; this module alone reads them. A tag is
an int here and in all of `tasks.deidentify`: group << 16 | element.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

CONFIDENTIALITY_FILE = "ps315_e1_1.json"
CONTENT_ITEMS_FILE = "ps315_e3_4_1.json"
ATTRIBUTE_TYPES_FILE = "iod_attribute_types.json"

PRIVATE = "PRIVATE"
"""The pattern of the one rule of table E.1-1 that stands for every private attribute."""

_NO_TYPES: Mapping[int, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidentialityRule:
    """One row of table E.1-1 of PS3.15.

    Attributes
    ----------
    pattern
        The tag as 8 upper-case hexadecimal digits, `x` standing for any digit in the repeating groups of curves and
        overlays, or `PRIVATE`.
    name
        The attribute's name in the standard.
    retired
        True if the standard has retired the attribute.
    basic
        The code of the Basic Profile: D, Z, X, U, or a compound such as X/Z/D.
    options
        (option, code) for each option whose column has a code, K or C, in the order of the table's columns.
    """

    pattern: str
    name: str
    retired: bool
    basic: str
    options: tuple[tuple[str, str], ...]

    def under(self, option: str) -> str | None:
        """Return the code in an option's column, K or C, or None where the column is empty."""
        for name, code in self.options:
            if name == option:
                return code
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidentialityTable:
    """Table E.1-1 of PS3.15.

    Attributes
    ----------
    edition
        The edition of the standard, such as 2026d.
    source
        Which transcription it was made from.
    digest
        SHA-256 of the data file, 64 hexadecimal digits.
    options
        The names of the ten option columns, in the table's order.
    rules
        Every row, sorted by pattern.
    by_tag
        The rows with a single tag, by that tag.
    """

    edition: str
    source: str
    digest: str
    options: tuple[str, ...]
    rules: tuple[ConfidentialityRule, ...]
    by_tag: Mapping[int, ConfidentialityRule]

    def rule_for(self, tag: int) -> ConfidentialityRule | None:
        """Return the row that speaks of a tag, repeating groups and private attributes included, or None."""
        rule = self.by_tag.get(tag)
        if rule is not None:
            return rule
        if tag >> 16 & 1:
            return next(row for row in self.rules if row.pattern == PRIVATE)
        digits = f"{tag:08X}"
        for row in self.rules:
            if "x" in row.pattern and all(one in ("x", other) for one, other in zip(row.pattern, digits, strict=True)):
                return row
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentItemRule:
    """One row of table E.3.4-1 of PS3.15.

    Attributes
    ----------
    code, scheme, meaning
        The concept's name: code value, coding scheme designator, code meaning.
    value_type
        The value type of the content items that the row speaks of, such as TEXT (PS3.3 section C.17.3).
    basic
        The code of the Basic Profile: D, X or X/D.
    options
        (option, code) for each option whose column has a code, K or C, in the order of the table's columns.
    """

    code: str
    scheme: str
    meaning: str
    value_type: str
    basic: str
    options: tuple[tuple[str, str], ...]

    def under(self, option: str) -> str | None:
        """Return the code in an option's column, K or C, or None where the column is empty."""
        return dict(self.options).get(option)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentItemTable:
    """Table E.3.4-1 of PS3.15.

    Attributes
    ----------
    edition, source
        As of `ConfidentialityTable`.
    digest
        SHA-256 of the data file, 64 hexadecimal digits.
    options
        The names of the option columns, in the table's order.
    rules
        Every row, sorted by scheme, code and value type.
    by_concept
        The rows of each concept, by code value and scheme.
    """

    edition: str
    source: str
    digest: str
    options: tuple[str, ...]
    rules: tuple[ContentItemRule, ...]
    by_concept: Mapping[tuple[str, str], tuple[ContentItemRule, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributeTypes:
    """The attribute types of PS3.3 for image storage classes, one node a level: a data set, or the items of a sequence.

    Equal levels are one node, however many IODs and sequences hold them. An attribute that several modules of an IOD
    name has the strictest of its types (1, 1C, 2, 2C, 3) among all modules of that IOD, optional ones included.

    Attributes
    ----------
    edition, source
        Where the types come from.
    digest
        SHA-256 of the data file, 64 hexadecimal digits.
    roots
        The top level of each SOP class, by its UID.
    types
        By node: the type of each attribute, by tag.
    items
        By node: the node of each sequence's items, by the sequence's tag.
    """

    edition: str
    source: str
    digest: str
    roots: Mapping[str, int]
    types: tuple[Mapping[int, str], ...]
    items: tuple[Mapping[int, int], ...]

    def types_at(self, node: int | None) -> Mapping[int, str]:
        """Return the types on one level, empty for a level that the IOD does not know (None)."""
        return _NO_TYPES if node is None else self.types[node]

    def inside(self, node: int | None, sequence: int) -> int | None:
        """Return the level of a sequence's items, or None if the IOD does not know the sequence there."""
        return None if node is None else self.items[node].get(sequence)


@functools.cache
def load_confidentiality_table() -> ConfidentialityTable:
    """Read table E.1-1 of PS3.15 once.

    Source: PS3.15 annex E, table E.1-1; the file states the edition.
    """
    content, digest = _read(CONFIDENTIALITY_FILE)
    rules = tuple(
        ConfidentialityRule(
            pattern=row["tag"],
            name=row["name"],
            retired=row["retired"],
            basic=row["basic"],
            options=tuple(row["options"].items()),
        )
        for row in content["rules"]
    )
    by_tag = {int(row.pattern, 16): row for row in rules if row.pattern != PRIVATE and "x" not in row.pattern}
    return ConfidentialityTable(
        edition=content["about"]["edition"],
        source=content["about"]["source"],
        digest=digest,
        options=tuple(content["about"]["options"]),
        rules=rules,
        by_tag=MappingProxyType(by_tag),
    )


@functools.cache
def load_content_item_table() -> ContentItemTable:
    """Read table E.3.4-1 of PS3.15 once.

    Source: PS3.15 annex E, table E.3.4-1; the file states the edition.
    """
    content, digest = _read(CONTENT_ITEMS_FILE)
    rules = tuple(
        ContentItemRule(
            code=row["code"],
            scheme=row["scheme"],
            meaning=row["meaning"],
            value_type=row["value_type"],
            basic=row["basic"],
            options=tuple(row["options"].items()),
        )
        for row in content["content_items"]
    )
    by_concept: dict[tuple[str, str], tuple[ContentItemRule, ...]] = {}
    for rule in rules:
        concept = (rule.code, rule.scheme)
        by_concept[concept] = (*by_concept.get(concept, ()), rule)
    return ContentItemTable(
        edition=content["about"]["edition"],
        source=content["about"]["source"],
        digest=digest,
        options=tuple(content["about"]["options"]),
        rules=rules,
        by_concept=MappingProxyType(by_concept),
    )


@functools.cache
def load_attribute_types() -> AttributeTypes:
    """Read the attribute types once.

    Source: the module and macro tables of PS3.3; types as in PS3.5 section 7.4.
    """
    content, digest = _read(ATTRIBUTE_TYPES_FILE)
    types: list[Mapping[int, str]] = []
    items: list[Mapping[int, int]] = []
    for node in content["nodes"]:
        kinds: dict[int, str] = {}
        sequences: dict[int, int] = {}
        for kind, attributes in node.items():
            for attribute in attributes.split():
                digits, _, inside = attribute.partition(">")
                tag = int(digits, 16)
                if kind != "-":
                    kinds[tag] = kind
                if inside:
                    sequences[tag] = int(inside)
        types.append(kinds)
        items.append(sequences)
    return AttributeTypes(
        edition=content["about"]["edition"],
        source=content["about"]["source"],
        digest=digest,
        roots=MappingProxyType(content["sop_classes"]),
        types=tuple(types),
        items=tuple(items),
    )


def attribute_type(sop_class_uid: str, tag: int, path: tuple[int, ...] = ()) -> str | None:
    """Return the type of an attribute in the IOD of a SOP class.

    Parameters
    ----------
    sop_class_uid
        The SOP class of an image.
    tag
        The attribute.
    path
        The tags of the sequences it is nested in, outermost first; empty at the top level.

    Returns
    -------
    str or None
        1, 1C, 2, 2C or 3: the strictest among all modules of the IOD. None if the IOD does not name the attribute
        there, or if no image storage class has that UID.
    """
    known = load_attribute_types()
    node = known.roots.get(sop_class_uid)
    for sequence in path:
        node = known.inside(node, sequence)
    return known.types_at(node).get(tag)


def _read(name: str) -> tuple[dict[str, Any], str]:
    content = importlib.resources.files("tasks.deidentify").joinpath("data", name).read_bytes()
    return json.loads(content), hashlib.sha256(content).hexdigest()
