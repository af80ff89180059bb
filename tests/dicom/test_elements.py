"""The walker says of every file what pydicom says, or refuses it with a reason; `pick` says what the walker says."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.dicom import elements
from tasks.dicom.elements import ITEM, ITEM_END, SEQUENCE_END, UNDEFINED, WalkError, pick, walk
from tasks.dicom.syntax import EXPLICIT_LITTLE, IMPLICIT_LITTLE, SyntaxRefusalError, read_start
from tests import strategies
from tests.dicom.encoder import (
    ITEM_END_BYTES,
    NO_LENGTH,
    SEQUENCE_END_BYTES,
    Encapsulated,
    Leaf,
    Nested,
    Node,
    encode,
    head,
    write_meta,
)
from tests.dicom.oracle import (
    PYDICOM_FILES,
    TEXT_SUFFIXES,
    compare,
    difference,
    flatten_with_pydicom,
    flatten_with_walker,
    spans,
)

REFUSED_OF_PYDICOM = {
    "palettes/README": "not-dicom",
    "test_files/ExplVR_BigEnd.dcm": "big-endian",
    "test_files/ExplVR_BigEndNoMeta.dcm": "no-preamble",
    "test_files/ExplVR_LitEndNoMeta.dcm": "no-preamble",
    "test_files/MR_small_bigendian.dcm": "big-endian",
    "test_files/MR_small_expb.dcm": "big-endian",
    "test_files/MR_truncated.dcm": "truncated",
    "test_files/SC_rgb_jpeg.dcm": "unknown-vr",
}
"""Files of pydicom's package that the walker does not read, and why."""

REFUSED_OF_ARCHIVES: dict[str, str] = {}
LAST = 0x00200013
