"""Text recognition: what it is asked for, what counts as writing, and what a real engine sees and does not see."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tasks.deidentify.ocr import (
    OCR_REASONS,
    Look,
    Picture,
    TextReader,
    is_suspect,
    look_for_text,
    open_reader,
    pictures_of,
    shows_text,
    tesseract_version,
)
from tests.deidentify.burnt_in import (
    CAPTURE,
    JPEG_2000,
    MR,
    RLE,
    ULTRASOUND,
    ULTRASOUND_FRAMES,
    Form,
    burnt_in,
    speckle,
    write_on,
)
from tests.deidentify.test_pixels import read

PLAIN_MR = Form(sop_class=MR, allocated=16, stored=12)


class Said:
    """A reader that says what it is told to, for what follows from it; engines are tested below."""

    name = "said 1"

    def __init__(self, *lines: str) -> None:
        self.lines = list(lines)
        self.pictures: list[Picture] = []

    def read(self, picture: Picture) -> list[str]:
        self.pictures.append(picture)
        return self.lines


@pytest.mark.parametrize(
    ("lines", "is_writing"),
    [
        (["ZIMMER"], True),
        (["1950-01-02"], True),
        (["DOE", "JANE"], True),
        (["Мария"], True),
        (["李小明"], True),
        ([], False),
        (["R", "L", "A", "P"], False),
        (["5", "cm", "10"], False),
        (["OOOO", "000", "oOo"], False),
        (["86006", "@@"], False),
    ],
    ids=str,
)
def test_writing_is_words_of_several_letters(lines: list[str], is_writing: bool) -> None:
    assert shows_text(np.zeros((4, 4), np.uint8), Said(*lines)) is is_writing


def look(content: bytes, reader: TextReader, mode: str = "all", **more: object) -> Look:
    return look_for_text(content, reader, mode, **more)


def test_off_reads_nothing_and_suspects_only_what_is_likely_to_bear_text() -> None:
    reader = Said()
    plain, capture = burnt_in(PLAIN_MR), burnt_in(Form())
    assert look(plain, reader, "off") == look(plain, reader, "suspects") == Look("", was_read=False)
    assert reader.pictures == []
    assert look(capture, reader, "suspects").was_read
    assert look(plain, reader, "suspects", codes=["113101"]).was_read
    assert look(plain, reader, "all").was_read
    assert look(capture, Said("ZIMMER"), "suspects") == Look("burned-in-text", was_read=True)


@pytest.mark.parametrize(
    ("form", "suspect"),
    [
        (Form(sop_class=ULTRASOUND), True),
        (Form(sop_class=CAPTURE), True),
        (PLAIN_MR, False),
        (replace(PLAIN_MR, more={"ImageType": ["DERIVED", "PRIMARY"]}), True),
        (replace(PLAIN_MR, more={"ImageType": "SECONDARY"}), True),
        (replace(PLAIN_MR, more={"ImageType": ["ORIGINAL", "PRIMARY", "DERIVED"]}), False),
        (Form(sop_class=MR, photometric="RGB"), True),
    ],
    ids=str,
)
def test_what_is_suspect(form: Form, suspect: bool) -> None:
    assert is_suspect(read(burnt_in(form))) is suspect


@pytest.mark.parametrize(
    "form",
    [
        Form(),
        Form(photometric="MONOCHROME1"),
        Form(photometric="RGB", planar=1),
        Form(photometric="YBR_FULL"),
        Form(photometric="PALETTE COLOR"),
        Form(allocated=16, stored=12, is_signed=True),
        Form(syntax=RLE, allocated=16, stored=12),
        Form(syntax=JPEG_2000),
    ],
    ids=str,
)
def test_every_form_gives_pictures_in_which_the_writing_stands_out(form: Form) -> None:
    first = next(iter(pictures_of(read(burnt_in(form)))))
    assert first.dtype == np.uint8
    banner, rest = first[: first.shape[0] // 5], first[first.shape[0] // 5 :]
    assert int(banner.max()) - int(banner.min()) == 255
    assert rest.shape[0] > banner.shape[0]


def test_captures_are_looked_at_frame_by_frame_and_others_at_three() -> None:
    for form, frames in ((Form(frames=5, sop_class=ULTRASOUND_FRAMES), 5), (replace(PLAIN_MR, frames=5), 3)):
        pictures = list(pictures_of(read(burnt_in(form))))
        assert 2 * frames <= len(pictures) <= 3 * frames


def test_what_cannot_be_decoded_or_read_is_kept_back() -> None:
    whole = burnt_in(Form(syntax=JPEG_2000))
    begin = whole.index(b"\xff\x4f\xff\x51")
    assert look(whole[:begin] + bytes(60) + whole[begin + 60 :], Said()) == Look("text-unchecked", was_read=False)

    class Failing(Said):
        def read(self, picture: Picture) -> list[str]:
            raise subprocess.TimeoutExpired("engine", 1)

    assert look(burnt_in(Form()), Failing()) == Look("text-unchecked", was_read=False)
    assert set(OCR_REASONS) == {"burned-in-text", "text-unchecked"}


NO_ENGINE = """
import sys
sys.modules["rapidocr_onnxruntime"] = None
from tasks.deidentify.ocr import open_reader
from tasks.errors import MissingPackageError
try:
    open_reader()
except MissingPackageError as fault:
    print(fault)
"""


@pytest.mark.parametrize("program", ["absent", "fails", "no English"])
def test_without_an_engine_one_sentence_says_what_to_install(program: str, tmp_path: Path) -> None:
    if program != "absent":
        text = "#!/bin/sh\nexit 1\n" if program == "fails" else "#!/bin/sh\necho tesseract 5.3.0\n"
        (tmp_path / "tesseract").write_text(text)
        (tmp_path / "tesseract").chmod(0o755)
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", NO_ENGINE],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PATH": str(tmp_path)},
    )
    assert "rapidocr-onnxruntime or the program tesseract" in ended.stdout
    assert "pip install 'scanward[ocr]'" in ended.stdout


# ---- a real engine


@pytest.fixture(scope="module")
def reader(program: Callable[[str], str]) -> TextReader:
    assert tesseract_version(program("tesseract"))
    return open_reader()


def test_an_engine_tells_its_name_and_version(reader: TextReader) -> None:
    name, version = reader.name.split()
    assert name in ("tesseract", "rapidocr-onnxruntime")
    assert version[0].isdigit()


@pytest.mark.parametrize("form", [Form(), Form(photometric="MONOCHROME1"), Form(photometric="RGB")], ids=str)
def test_a_name_in_a_banner_is_read(reader: TextReader, form: Form) -> None:
    assert look(burnt_in(form), reader) == Look("burned-in-text", was_read=True)


def test_images_without_writing_are_released(reader: TextReader, scanner_data: Path) -> None:
    for name in ("pydicom-data/data_store/data/emri_small.dcm", "dcm_qa_uih/In/DTI_132225/*t1_gre*/00000141.dcm"):
        (path,) = scanner_data.glob(name)
        assert look(path.read_bytes(), reader) == Look("", was_read=True), name


@pytest.mark.long
@pytest.mark.parametrize("size", [16, 20, 24, 32])
def test_most_names_in_white_on_black_beside_an_image_are_read(reader: TextReader, size: int) -> None:
    found = 0
    for seed in range(4):
        gray = speckle(480, 640, seed=seed)
        gray[:60] = 0
        gray = write_on(gray, "ZIMMER^ANNA 1950-01-02", (10 + 40 * seed, 8), size, 255)
        found += look(burnt_in(Form(), gray=gray), reader).reason == "burned-in-text"
    assert found >= 3
