"""What may stand where the standard wants a term (VR CS): the words that such terms are made of.

A coded string is kept because it comes from a published list. Nothing keeps a person from typing a name there, so each
is held against the words of such lists.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
import json
import re

from tasks.deidentify.descriptors import load_vocabulary

TERMS_FILE = "terms.json"

LONGEST_TERM = 64
"""Characters of one coded string, for which the standard has 16 and scanners write more; no term is as long."""

_RUN = re.compile(r"[A-Za-z]+|[0-9]+")
_SHORT = 3
"""Letters or digits in a row that need not be known: SE, FFE, T1; a year or the number of a patient has more."""

_LONGEST_OF_SHORT = 8
"""Characters that a term may have in which no word is known: longer ones are IDs as easily as terms."""

_MOST_DIGITS = 3
"""Digits that a term may have in all, as in 129XE: a date or a number in parts has more."""

_STANDARDS = re.compile(r"ISO_[0-9]{5}_[0-9]{1,2}")


def _content() -> bytes:
    return importlib.resources.files("tasks.deidentify").joinpath("data", TERMS_FILE).read_bytes()


@functools.cache
def _words() -> frozenset[str]:
    return (
        frozenset(word for line in json.loads(_content())["words"] for word in line.split()) | load_vocabulary().words
    )


@functools.cache
def _terms() -> dict[int, frozenset[str]]:
    """Return terms that are called by a person's name, by the only attribute in which they stand."""
    return {int(tag, 16): frozenset(terms) for tag, terms in json.loads(_content())["terms"].items()}


@functools.cache
def terms_digest() -> str:
    """Return SHA-256 of the file of words, and of what else decides."""
    limits = f"{LONGEST_TERM} {_SHORT} {_MOST_DIGITS} {_LONGEST_OF_SHORT} {_STANDARDS.pattern}"
    return hashlib.sha256(_content() + limits.encode("ascii")).hexdigest()


def is_word_of_terms(word: str) -> bool:
    """Tell whether a word in lower case is one that terms are made of."""
    return word in _words()


@functools.lru_cache(maxsize=65536)
def is_term(value: str, tag: int = 0) -> bool:
    """Tell whether one value of a coded string can be a term: of words that terms are made of, or short.

    Parameters
    ----------
    value
        The value without padding; the empty one is.
    tag
        Its attribute.
    """
    if not value or value in _terms().get(tag, ()):
        return True
    if not value.isascii() or len(value) > LONGEST_TERM:
        return False
    known = False
    for run in _RUN.findall(value):
        if run.lower() in _words():
            known = known or len(run) >= _SHORT
        elif len(run) > _SHORT:
            return _STANDARDS.fullmatch(value) is not None
    if sum(map(str.isdigit, value)) > _MOST_DIGITS:
        return False
    return known or len(value) <= _LONGEST_OF_SHORT
