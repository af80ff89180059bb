"""Draws the measurements as a picture of horizontal bars, for the README."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

WIDTH = 1520
MARGIN = 40
BAR, STEP = 30, 46
TITLE_SIZE, TEXT_SIZE, SMALL_SIZE = 30, 23, 19
GAP = 14

PAPER = "#ffffff"
INK = "#1f2933"
FAINT = "#616e7c"
LINE = "#cbd2d9"
OURS = "#0b6e99"
THEIRS = "#aab4bf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One measured thing: how long its bar is, and what stands beside it."""

    label: str
    value: float
    text: str
    ours: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A group of bars on one linear scale that begins at zero."""

    title: str
    note: str
    bars: Sequence[Bar]


def draw_chart(panels: Sequence[Panel], path: Path) -> None:
    """Draw the panels below each other and write them as PNG."""
    title, text, small = (ImageFont.load_default(size) for size in (TITLE_SIZE, TEXT_SIZE, SMALL_SIZE))
    bars = [bar for panel in panels for bar in panel.bars]
    # One left and one right edge for all panels, from the longest label and the longest figure.
    left = MARGIN + max(text.getlength(bar.label) for bar in bars) + GAP
    room = WIDTH - MARGIN - left - max(text.getlength(bar.text) for bar in bars) - GAP
    head = TITLE_SIZE + SMALL_SIZE + 3 * GAP
    height = MARGIN + sum(head + STEP * len(panel.bars) + MARGIN for panel in panels)

    image = Image.new("RGB", (WIDTH, round(height)), PAPER)
    pen = ImageDraw.Draw(image)
    top = float(MARGIN)
    for panel in panels:
        pen.text((MARGIN, top), panel.title, fill=INK, font=title)
        pen.text((MARGIN, top + TITLE_SIZE + GAP), panel.note, fill=FAINT, font=small)
        top += head
        pen.line((left, top, left, top + STEP * len(panel.bars)), fill=LINE, width=2)
        longest = max(bar.value for bar in panel.bars)
        for bar in panel.bars:
            middle = top + STEP / 2
            edge = left + max(3.0, room * bar.value / longest)
            pen.rectangle((left, middle - BAR / 2, edge, middle + BAR / 2), fill=OURS if bar.ours else THEIRS)
            pen.text((left - GAP, middle), bar.label, fill=INK, font=text, anchor="rm")
            pen.text((edge + GAP, middle), bar.text, fill=INK, font=text, anchor="lm")
            top += STEP
        top += MARGIN
    image.quantize(64).save(path, optimize=True)
