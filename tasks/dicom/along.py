"""Walk files one along the other: in a series values differ, and seldom where they stand."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice, pairwise

import numpy as np
import numpy.typing as npt

from tasks.dicom.elements import ITEM, SEQUENCE_END, Element, walk

_PIXEL_DATA = 0x7FE00010
_MOST_ELEMENTS = 2000
_LONGEST_HEAD = 1 << 20
"""More elements than so many, or more bytes before the pixels, are walked in each file."""

_PAUSE = 16
"""Files that are walked without trying, after one was not like the one before."""


@dataclass(slots=True, kw_only=True)
class _Last:
    """The file that was walked last, up to its pixels.

    Attributes
    ----------
    key
        Its length, where its data set begins, and whether it is explicit.
    head
        The bytes of its data set, up to the value of the pixel data.
    elements
        What stands in it.
    decides
        Which of those bytes decide what stands where; None before that was asked.
    """

    key: tuple[int, int, bool]
    head: bytes
    elements: list[Element]
    decides: npt.NDArray[np.bool_] | None = None


class Walker:
    """Walks whole data sets as `walk` does; one whose elements stand where they stood in the last is looked at once.

    What `walk` yields hangs on the heads of elements and items, on private creators, and on the bytes in which it looks
    for fragments. Where two files of the same length differ in nothing but other values, their elements are the same.
    """

    def __init__(self) -> None:
        self._last: _Last | None = None
        self._pause = 0

    def elements(self, data: bytes, start: int, *, explicit: bool, most: int) -> list[Element]:
        """Return the elements of a data set, as `walk` yields them, but no more than so many.

        The list may be one that was returned before: do not change it.

        Raises
        ------
        WalkError
            As `walk`.
        """
        last = self._last
        if last is not None and last.key == (len(data), start, explicit) and len(last.elements) <= most:
            if self._pause:
                self._pause -= 1
            elif _is_like(data, start, last):
                return last.elements
            else:
                self._pause = _PAUSE
        elements = list(islice(walk(data, start, explicit=explicit), most))
        self._last = None
        if elements and len(elements) < min(most, _MOST_ELEMENTS):
            pixels = elements[-1]
            is_last = pixels.tag == _PIXEL_DATA and pixels.depth == 0 and pixels.vr != "SQ" and pixels.end == len(data)
            if is_last and pixels.value - start <= _LONGEST_HEAD and not _holds_fragments(elements):
                head = data[start : pixels.value]
                self._last = _Last(key=(len(data), start, explicit), head=head, elements=elements)
        return elements


def _holds_fragments(elements: list[Element]) -> bool:
    """Tell whether an element's value is fragments: the delimiter behind them stands at its own depth."""
    return any(
        behind.tag == SEQUENCE_END and one.vr not in ("", "SQ") and one.depth == behind.depth
        for one, behind in pairwise(elements)
    )


def _is_like(data: bytes, start: int, last: _Last) -> bool:
    if last.decides is None:
        last.decides = _deciding(last.elements, start, len(last.head))
    now, then = (np.frombuffer(part, np.uint8) for part in (data[start : start + len(last.head)], last.head))
    return not np.any((now != then) & last.decides)


def _deciding(elements: list[Element], start: int, length: int) -> npt.NDArray[np.bool_]:
    """Tell of each byte whether it decides where elements stand and what they are."""
    decides = np.ones(length, bool)
    for tag, vr, _, value, end, _, _ in elements:
        is_creator = tag & 0x10000 and 0x10 <= tag & 0xFFFF <= 0xFF
        if vr not in ("", "SQ") and tag != ITEM and not is_creator and end - start <= length:
            decides[value - start : end - start] = False
    return decides
