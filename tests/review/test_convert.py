"""What comes out of a series is what dcm2niix makes of it by hand, or a reason; nothing of the way there is left."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import nibabel
import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.deidentify import find_dcm2niix
from tasks.errors import DamagedRecordError, DiskFullError, MissingPackageError
from tasks.files import TEMPORARY_PREFIX, sweep_temporaries
from tasks.review.convert import (
    CONVERSION_OUTCOMES,
    WARNINGS,
    Conversion,
    _warning,
    compress_image,
    convert_series,
    image_kind,
    time_course,
)
from tasks.review.sidecar import read_sidecar
from tests.builders.disks import other_device, tiny_disk
from tests.builders.network import no_network
from tests.conftest import REPOSITORY
from tests.deidentify.conversion import OTHERS, SAMPLE, files_of

DIFFUSION = "dcm_qa_philips/In/Vanderbilt_2018/601_WIP_dti_ax"
ECHOES = "dcm_qa_enh/In/Philips"
FEW = "dcm_qa_nih/In/20180918Si/mr_0003"
LARGE = "dcm_qa_uih/In/DTI_132225/t1_gre_fsp_3d_sag__132750"

CANARIES = ("Zygmuntowicz", "ÄnneŁódź", "s3cr3t-p4ss")
"""In the path of the export, in that of the workspace, and in the environment."""

Fake = Callable[[str], Path]


@pytest.fixture(scope="module")
def converter() -> str:
    """Give the program that the pipeline starts; its wheel's script is another that only starts it."""
    path = find_dcm2niix()
    assert path
    return path


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    """Give a function that makes a program of a shell script; `$out` is its output folder, `$in` the input."""

    def write(script: str) -> Path:
        program = tmp_path / "programs" / "dcm2niix"
        program.parent.mkdir(exist_ok=True)
        words = '#!/bin/sh\nfor word; do if [ "$last" = -o ]; then out=$word; fi; last=$word; done; in=$last\n'
        program.write_text(words + script)
        program.chmod(0o755)
        return program

    return write


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


@pytest.fixture
def few(scanner_data: Path) -> list[Path]:
    return files_of(scanner_data / FEW)


def by_hand(program: str, files: Sequence[Path], folder: Path) -> Path:
    """Convert as a person does who reads dcm2niix's help: the files of a folder, no compression, a full sidecar."""
    source, target = folder / "source", folder / "target"
    source.mkdir(parents=True)
    target.mkdir()
    for file in files:
        shutil.copy(file, source)
    command = [program, "-z", "n", "-ba", "n", "-f", "image", "-o", target, source]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return target


def listed(conversion: Conversion) -> set[Path]:
    return {
        path for one in conversion.images for path in (one.image, one.sidecar, one.bval, one.bvec) if path is not None
    }


def nifti(shape: tuple[int, ...] = (4, 5, 6), value: int = 1) -> bytes:
    return nibabel.Nifti1Image(np.full(shape, value, "i2"), np.eye(4)).to_bytes()


def nothing_left(work: Path) -> bool:
    return not any(path.name.startswith(TEMPORARY_PREFIX) for path in [*work.parent.rglob("*"), *work.rglob("*")])


# What comes out ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "series", [DIFFUSION, *SAMPLE, *(pytest.param(one, marks=pytest.mark.long) for one in OTHERS if one != DIFFUSION)]
)
def test_voxels_affine_sidecar_and_directions_are_those_made_by_hand(
    series: str, scanner_data: Path, converter: str, tmp_path: Path
) -> None:
    files = files_of(scanner_data / series)
    target = by_hand(converter, files, tmp_path / "hand")
    work = tmp_path / "work"
    conversion = convert_series(files, work, program=converter)
    assert (conversion.outcome, conversion.exit_code, conversion.reason) == ("whole", 0, "")
    assert conversion.images
    assert "other" not in conversion.warnings
    assert {path.name for path in work.iterdir()} == {path.name for path in target.iterdir()}
    assert listed(conversion) == set(work.iterdir())
    for path in work.iterdir():
        expected = target / path.name
        if path.suffix == ".nii":
            image, made = nibabel.load(path), nibabel.load(expected)
            assert np.array_equal(image.affine, made.affine)
            assert (image.shape, image.get_data_dtype()) == (made.shape, made.get_data_dtype())
            assert image.header.get_zooms() == made.header.get_zooms()
            assert np.array_equal(np.asanyarray(image.dataobj), np.asanyarray(made.dataobj), equal_nan=True)
        elif path.suffix == ".json":
            assert read_sidecar(path) == read_sidecar(expected)
        else:
            assert path.read_bytes() == expected.read_bytes()


def test_a_large_structural_image_is_the_one_made_by_hand(scanner_data: Path, converter: str, work: Path) -> None:
    files = files_of(scanner_data / LARGE)
    (one,) = convert_series(files, work, program=converter).images
    (made,) = by_hand(converter, files, work.parent / "hand").glob("*.nii")
    with open(one.image, "rb") as ours, open(made, "rb") as theirs:
        ours.seek(348)
        theirs.seek(348)
        assert hashlib.file_digest(ours, "sha256").digest() == hashlib.file_digest(theirs, "sha256").digest()


def test_echoes_and_maps_are_told_apart(scanner_data: Path, converter: str, work: Path) -> None:
    conversion = convert_series(files_of(scanner_data / ECHOES), work, program=converter)
    assert [one.kind for one in conversion.images] == ["e1", "e2-fieldmaphz"]
    assert all(one.sidecar for one in conversion.images)
    assert conversion.warnings == ("enhanced",)


def test_directions_lie_beside_the_image_that_they_belong_to(scanner_data: Path, converter: str, work: Path) -> None:
    plain, computed = convert_series(files_of(scanner_data / DIFFUSION), work, program=converter).images
    assert (plain.kind, computed.kind) == ("", "adc")
    assert plain.bval is not None
    assert plain.bvec is not None
    assert len(plain.bval.read_text().split()) == nibabel.load(plain.image).shape[3]
    assert (computed.bval, computed.bvec, computed.sidecar) == (None, None, None)


def test_neither_moment_nor_comment_stands_in_an_image(scanner_data: Path, converter: str, work: Path) -> None:
    comment = files_of(scanner_data / "deid-data/deid_data/data/dicom-cookies")[:1]
    made = by_hand(converter, comment, work.parent / "hand") / "image.nii"
    assert b"cookie" in made.read_bytes()[:348]
    (one,) = convert_series(comment, work, program=converter).images
    header = nibabel.load(one.image).header
    assert [bytes(header[field]).strip(b"\0") for field in ("descrip", "aux_file", "db_name", "intent_name")] == [
        b""
    ] * 4
    assert b"cookie" not in one.image.read_bytes()


def test_equal_series_give_equal_bytes(scanner_data: Path, converter: str, tmp_path: Path) -> None:
    digests = []
    for number, series in enumerate((ECHOES, DIFFUSION, ECHOES, DIFFUSION)):
        work = tmp_path / f"work{number}"
        conversion = convert_series(files_of(scanner_data / series), work, program=converter)
        for one in conversion.images:
            compress_image(one.image, one.image.with_suffix(".nii.gz"))
        digests.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in work.iterdir()})
    assert digests[:2] == digests[2:]
    assert digests[0] != digests[1]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("image.nii", ""),
        ("imagea.nii", ""),
        ("imageab.nii", ""),
        ("image_e1.nii", "e1"),
        ("image_e2a.nii", "e2"),
        ("image_e10_ph.nii", "e10-ph"),
        ("image_e1.5.nii", "e1.5"),
        ("image_pha.nii", "ph"),
        ("image_phMag.nii", "phmag"),
        ("image_real.nii", "real"),
        ("image_imaginaryb.nii", "imaginary"),
        ("image_e2_fieldmaphz.nii", "e2-fieldmaphz"),
        ("image_MoCo.nii", "moco"),
        ("image_ADC.nii", "adc"),
        ("image_Eq_1.nii", "eq"),
        ("imagea_Tilt_1.nii", "tilt"),
        ("image_Tilt_Eq_1.nii", "tilt-eq"),
        ("image_ROI16.nii", "roi16"),
        ("image_t178.nii", "t178"),
        ("image_i00012.nii", ""),
        ("image_cH1.nii", "coil"),
        ("image_cHEA_Smith_1_e2.nii", "coil-e2"),
        ("image_Smith.nii", "other"),
        ("image_e2_Smith_Jones.nii", "e2-other"),
    ],
)
def test_an_ending_tells_what_an_image_is_and_never_quotes_the_header(name: str, kind: str) -> None:
    assert image_kind(name) == kind


@given(st.text(max_size=30))
def test_a_kind_is_made_of_known_words(text: str) -> None:
    known = {*("e", "ph", "phmag", "real", "imaginary", "fieldmaphz", "norf", "moco", "adc", "eq", "tilt", "roi", "t")}
    known |= {"mrsref", "crop", "coil", "other", ""}
    for part in image_kind(f"image_{text}.nii").split("-"):
        assert part.rstrip("0123456789.") in known


def test_images_of_one_kind_have_one_order_whatever_their_letters(fake: Fake, few: list[Path], tmp_path: Path) -> None:
    for name, value in (("first", 1), ("second", 2), ("third", 3)):
        (tmp_path / f"{name}.nii").write_bytes(nifti(value=value))
    numbers = {"first": 2, "second": 2, "third": 1}
    seen = set()
    for order in (("first", "second", "third"), ("third", "second", "first"), ("second", "third", "first")):
        script = "echo Found 2 DICOM file\\(s\\); echo Convert 2 DICOM as x\n"
        for letter, name in zip(("", "a", "b"), order, strict=True):
            script += f"cp {shlex.quote(str(tmp_path / name))}.nii $out/image{letter}.nii\n"
            script += f"echo '{{\"AcquisitionNumber\": {numbers[name]}}}' > $out/image{letter}.json\n"
        work = tmp_path / "-".join(order)
        conversion = convert_series(few, work, program=fake(script))
        seen.add(tuple(int(nibabel.load(one.image).dataobj[0, 0, 0]) for one in conversion.images))
    assert len(seen) == 1
    assert next(iter(seen))[0] == 3


# What does not come out ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            ("HTJ2KLossless_08_RGB.dcm", "HTJ2K_08_RGB.dcm", "JLSL_08_07_0_1F.dcm", "JLSL_16_15_1_1F.dcm"),
            ("partial", 8, "Only 2 of 4 files went into images.", 1),
        ),
        (("liver_deflate.dcm",), ("nothing", 2, "None of 1 file is an image that the converter knows.", 0)),
        (("liver_rle.dcm",), ("failed", 1, "None of 1 file went into an image.", 0)),
        # The converter itself ends with 0 here.
        (("rtplan.dcm", "SC_rgb.dcm"), ("partial", 0, "Only 1 of 2 files went into images.", 1)),
        ((), ("nothing", 2, "None of 0 files is an image that the converter knows.", 0)),
    ],
)
def test_real_series_that_do_not_come_out_whole_have_their_reason(
    names: tuple[str, ...], expected: tuple[str, int, str, int], scanner_data: Path, converter: str, work: Path
) -> None:
    import pydicom.data

    store = scanner_data / "pydicom-data" / "data_store" / "data"
    files = [
        store / name if (store / name).exists() else Path(str(pydicom.data.get_testdata_file(name, download=False)))
        for name in names
    ]
    conversion = convert_series(files, work, program=converter)
    seen = (conversion.outcome, conversion.exit_code, conversion.reason, len(conversion.images))
    assert seen == expected
    assert listed(conversion) == set(work.iterdir())
    assert nothing_left(work)


def test_a_file_that_is_no_image_is_never_left_out_silently(
    few: list[Path], converter: str, tmp_path: Path, work: Path
) -> None:
    (tmp_path / "text").write_text("no image")
    (tmp_path / "cut").write_bytes(few[0].read_bytes()[:2000])
    for strange in (tmp_path / "text", tmp_path / "cut", tmp_path / "went away"):
        conversion = convert_series([*few, strange], work, program=converter)
        assert conversion.outcome == "partial"
        assert conversion.images
        assert "of 3 files" in conversion.reason


WHOLE = "echo 'Found 2 DICOM file(s)'; echo 'Convert 2 DICOM as image'; cp {image} $out/image.nii; "

HALVES = {
    "an image that is cut off": (
        WHOLE + "head -c 500 {image} > $out/image.nii; echo '{{}}' > $out/image.json",
        *("failed", "1 image ended too early."),
    ),
    "an image of nothing but a header's beginning": (
        WHOLE + "head -c 100 {image} > $out/image.nii",
        *("failed", "1 image ended too early."),
    ),
    "an empty image": (WHOLE + ": > $out/image.nii", "failed", "1 image ended too early."),
    "one image of two": (
        WHOLE + "head -c 500 {image} > $out/image_e2.nii",
        *("partial", "1 image ended too early."),
    ),
    "a sidecar that is cut off": (
        WHOLE + "printf '{{\"EchoTime\": 0.0' > $out/image.json",
        *("partial", "1 sidecar cannot be read."),
    ),
    "directions that do not fit": (
        WHOLE + "echo 0 1000 > $out/image.bval; printf '0 1\\n0 0\\n0 0\\n' > $out/image.bvec",
        *("partial", "Of 1 image the diffusion directions do not fit the volumes."),
    ),
    "strengths without directions": (
        WHOLE + "echo 0 > $out/image.bval",
        *("partial", "Of 1 image the diffusion directions do not fit the volumes."),
    ),
    "fewer files than there are": (
        "echo 'Found 1 DICOM file(s)'; echo 'Convert 1 DICOM as image'; cp {image} $out/image.nii",
        *("partial", "1 of 2 files are no image that the converter knows."),
    ),
    "fewer files than it found": (
        "echo 'Found 2 DICOM file(s)'; echo 'Convert 1 DICOM as image'; cp {image} $out/image.nii",
        *("partial", "Only 1 of 2 files went into images."),
    ),
    "no word of files": (
        "cp {image} $out/image.nii",
        *("partial", "The converter does not say how many files it found."),
    ),
    "code 8": (WHOLE + "exit 8", "partial", "The converter ended with code 8."),
    "code 1": (WHOLE + "exit 1", "partial", "The converter ended with code 1."),
    "code 7": (WHOLE + "exit 7", "failed", "The converter ended with code 7."),
    "code 2 with an image": (WHOLE + "exit 2", "partial", "The converter ended with code 2."),
    "nothing at all": ("exit 0", "nothing", "None of 2 files is an image that the converter knows."),
    "a signal": (WHOLE + "kill -SEGV $$", "failed", f"The converter was ended by signal {signal.SIGSEGV.value}."),
}


@pytest.mark.parametrize("what", HALVES)
def test_a_half_is_never_taken_for_a_whole(what: str, fake: Fake, few: list[Path], work: Path) -> None:
    script, outcome, reason = HALVES[what]
    image = work.parent / "whole.nii"
    image.write_bytes(nifti())
    program = fake(script.format(image=shlex.quote(str(image))))
    conversion = convert_series(few, work, program=program)
    assert (conversion.outcome, conversion.reason) == (outcome, reason)
    assert conversion.outcome in CONVERSION_OUTCOMES
    assert listed(conversion) == set(work.iterdir()), "what is not handed over is not left either"
    assert bool(conversion.images) == (outcome == "partial")
    assert all(nibabel.load(one.image).get_fdata().sum() == 4 * 5 * 6 for one in conversion.images)
    assert nothing_left(work)


def test_the_same_program_with_nothing_left_out_is_whole(fake: Fake, few: list[Path], work: Path) -> None:
    (work.parent / "whole.nii").write_bytes(nifti((4, 5, 6, 2)))
    script = WHOLE.format(image=shlex.quote(str(work.parent / "whole.nii")))
    script += (
        "echo 0 1000 > $out/image.bval; printf '0 1\\n0 0\\n0 0\\n' > $out/image.bvec; echo '{}' > $out/image.json"
    )
    conversion = convert_series(few, work, program=fake(script))
    assert (conversion.outcome, conversion.reason) == ("whole", "")
    assert len(listed(conversion)) == 4


def gone(pid_file: Path) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(int(pid_file.read_text())).status() == psutil.STATUS_ZOMBIE
    return True


def test_a_program_that_hangs_is_killed_with_all_it_started(fake: Fake, few: list[Path], work: Path) -> None:
    pids = shlex.quote(str(work.parent / "pid"))
    program = fake(
        f"trap '' TERM; sh -c 'trap \"\" TERM; sleep 600' & echo $! > {pids}; echo '{{' > $out/image.json; wait"
    )
    begin = time.monotonic()
    conversion = convert_series(few, work, program=program, seconds=0.5)
    assert time.monotonic() - begin < 60
    assert (conversion.outcome, conversion.images) == ("failed", ())
    assert conversion.reason == "The converter was stopped because it took too long."
    assert conversion.exit_code == -signal.SIGKILL
    assert list(work.iterdir()) == []
    deadline = time.monotonic() + 10
    while not gone(work.parent / "pid"):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_a_program_leaves_running_is_ended_with_it(fake: Fake, few: list[Path], work: Path) -> None:
    pids = shlex.quote(str(work.parent / "pid"))
    convert_series(few, work, program=fake(f"sleep 600 & echo $! > {pids}; exit 2"))
    deadline = time.monotonic() + 10
    while not gone(work.parent / "pid"):
        assert time.monotonic() < deadline
        time.sleep(0.01)


class _InterruptedError(BaseException):
    pass


@pytest.fixture
def interrupted_soon() -> Iterator[None]:
    """Have the test interrupted as by Ctrl-C, but by a signal that no test runner minds."""

    def interrupt(_number: int, _frame: object) -> None:
        raise _InterruptedError

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_an_interrupt_goes_through_nipype_and_ends_the_program(
    fake: Fake, few: list[Path], work: Path, request: pytest.FixtureRequest
) -> None:
    convert_series(few, work, program=fake("exit 2"))  # nipype is loaded
    pids = shlex.quote(str(work.parent / "pid"))
    program, before = fake(f"echo $$ > {pids}; sleep 600"), Path.cwd()
    request.getfixturevalue("interrupted_soon")
    with pytest.raises(_InterruptedError):
        convert_series(few, work, program=program)
    assert gone(work.parent / "pid")
    assert Path.cwd() == before
    assert list(work.iterdir()) == []


def test_a_program_that_cannot_be_started_is_a_missing_package(few: list[Path], work: Path) -> None:
    text = work.parent / "dcm2niix"
    for content in (b"\x7fELF of another machine", b"#!/no/such/interpreter\n"):
        text.write_bytes(content)
        text.chmod(0o755)
        with pytest.raises(MissingPackageError) as caught:
            convert_series(few, work, program=text)
        assert str(work) not in str(caught.value)
    text.chmod(0o644)
    for program in (text, work / "nothing", "no-such-program-anywhere"):
        with pytest.raises(MissingPackageError):
            convert_series(few, work, program=program)
    assert nothing_left(work)


def test_a_full_disk_is_no_series_that_does_not_convert(scanner_data: Path, converter: str, tmp_path: Path) -> None:
    files = files_of(scanner_data / "dcm_qa_enh/In/Siemens/XA10")
    left = 0
    with tiny_disk(tmp_path / "disk", kilobytes=2200) as disk:
        while True:
            try:
                conversion = convert_series(files, disk / "work", program=converter)
            except DiskFullError:
                break
            assert conversion.outcome == "whole"
            left += 1
            (disk / f"{left}").write_bytes(bytes(40_000))
        assert left
        assert nothing_left(disk / "work")


# What is not left, and not told --------------------------------------------------------------------------------------


def contents(folder: Path) -> bytes:
    """Return all names and bytes below a folder, unpacked as well."""
    found = []
    for path in folder.rglob("*"):
        found.append(os.fsencode(path.name))
        if path.is_file() and not path.is_symlink():
            raw = path.read_bytes()
            found.append(raw)
            with contextlib.suppress(zlib.error, EOFError, gzip.BadGzipFile):
                found.append(gzip.decompress(raw))
    return b"\n".join(found)


def test_no_name_of_the_export_and_no_variable_stands_in_anything_that_nipype_writes(
    few: list[Path], converter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.review import nodes

    monkeypatch.setenv("SMTP_PASSWORD", CANARIES[2])
    # The real name may be as short as two letters, which stand in any text.
    host = "host-of-the-canaries"
    monkeypatch.setattr("platform.node", lambda: host)
    monkeypatch.setattr("socket.gethostname", lambda: host)
    source, target, folder = tmp_path / "source", tmp_path / "target", tmp_path / "folder"
    for path in (source, target, folder, tmp_path / CANARIES[0]):
        path.mkdir()
    for number, file in enumerate(few):
        named = tmp_path / CANARIES[0] / f"{CANARIES[1]} {number}"
        shutil.copy(file, named)
        (source / f"{number}.dcm").symlink_to(named)
    ended = nodes.convert(
        program=converter, source=source, target=target, folder=folder, output=folder / "output", seconds=60
    )
    assert (ended.exit_code, ended.timed_out) == (0, False)
    (folder / "course").mkdir()
    nodes.time_course(target / "image.nii", folder / "course")
    left = contents(folder)
    names = {path.name for path in folder.rglob("*")}
    results = {"result_convert.pklz", "result_tsnr.pklz", "result_steady.pklz"}
    assert {"_node.pklz", "_inputs.pklz", *results} <= names, "nipype ran, and this is what it wrote"
    assert not any(name.startswith(("crash", "report", "command", "pypeline")) for name in names)
    for canary in (*(one.encode() for one in CANARIES), b"SMTP_PASSWORD", host.encode()):
        assert canary not in left
    assert b"SMTP_PASSWORD" in contents_of_nipype_alone(tmp_path), "the search finds what nipype writes by itself"


def contents_of_nipype_alone(tmp_path: Path) -> bytes:
    """Return what nipype leaves of a program that it starts in its own way."""
    from nipype.interfaces.base import CommandLine
    from nipype.pipeline.engine import Node, Workflow

    workflow = Workflow(name="alone", base_dir=str(tmp_path / "alone"))
    workflow.add_nodes([Node(CommandLine(command="true"), name="true")])
    workflow.run(plugin="Linear")
    return contents(tmp_path / "alone")


def test_the_program_sees_two_variables_and_an_empty_home(
    fake: Fake, few: list[Path], work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMTP_PASSWORD", CANARIES[2])
    seen = work.parent / "seen"
    seen.mkdir()
    place = shlex.quote(str(seen))
    script = f"/usr/bin/env > {place}/env; ls -A $HOME > {place}/home; stat -c %a $HOME/.. > {place}/mode; "
    convert_series(few, work, program=fake(script + f'echo "$@" > {place}/words; ls $in > {place}/names; exit 2'))
    variables = {line.split("=", 1)[0] for line in (seen / "env").read_text().splitlines()}
    assert {"PATH", "HOME"} <= variables <= {"PATH", "HOME", "PWD", "OLDPWD", "SHLVL", "_"}
    assert (seen / "home").read_text() == ""
    assert (seen / "mode").read_text() == "700\n"
    assert (seen / "names").read_text().split() == ["0000000.dcm", "0000001.dcm"]
    words = (seen / "words").read_text()
    assert str(work.parent) not in words, "no part of a path that may be long or have spaces"
    assert "-g i" in words
    assert "-m 2" in words, "dcm2niix's own default, and not nipype's"


def test_paths_with_spaces_and_letters_of_all_kinds_are_none_of_its_business(
    few: list[Path], converter: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    export = tmp_path / f"{CANARIES[0]} ^ [1] 'q' \"d\" $HOME `id` ; #" / CANARIES[1] / "-o" / ("x" * 200)
    export.mkdir(parents=True)
    files = [Path(shutil.copy(file, export / f"{number} %n {CANARIES[1]}.dcm")) for number, file in enumerate(few)]
    work = tmp_path / f"a {CANARIES[1]} *?[!x] 'q' $(id) \\ %s" / ("y" * 200) / ("z" * 200) / "work"
    before = Path.cwd()
    conversion = convert_series(files, work, program=converter)
    assert conversion.outcome == "whole"
    assert Path.cwd() == before
    assert {path.name for path in work.iterdir()} == {"image.nii", "image.json"}
    assert nothing_left(work)
    assert capfd.readouterr() == ("", "")
    assert not any(canary.encode() in contents(work) for canary in CANARIES)
    assert os.stat(work).st_mode & 0o777 == 0o700


def test_files_are_found_by_any_way_and_stay_what_they_are(
    few: list[Path], converter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, linked = tmp_path / "real", tmp_path / "linked"
    real.mkdir()
    linked.symlink_to("real")
    files = [Path(shutil.copy(file, real / f"{number}.dcm")) for number, file in enumerate(few)]
    (real / "two").symlink_to("1.dcm")
    before = [(path.name, path.read_bytes(), path.stat().st_mtime_ns) for path in files]
    monkeypatch.chdir(tmp_path)
    for ways in (files, [linked / "0.dcm", real / "two"], [Path("linked/0.dcm"), Path("real") / ".." / "real" / "two"]):
        conversion = convert_series(ways, Path("work"), program=converter)
        assert conversion.outcome == "whole"
        assert nibabel.load(conversion.images[0].image).shape == (72, 72, 5, 2)
    assert [(path.name, path.read_bytes(), path.stat().st_mtime_ns) for path in files] == before
    assert all(path.stat().st_nlink == 1 for path in files)


def test_files_on_another_device_are_converted_as_well(few: list[Path], converter: str, tmp_path: Path) -> None:
    with other_device(tmp_path) as elsewhere:
        conversion = convert_series(few, elsewhere / "work", program=converter)
        assert conversion.outcome == "whole"
        assert len(conversion.images) == 1


def test_nothing_that_the_program_prints_is_handed_on(
    fake: Fake, few: list[Path], work: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = [f"Warning: {CANARIES[0]} lies here", f"Unable to read {CANARIES[1]}", f"Error: {CANARIES[2]}", "x" * 9000]
    script = "".join(f"echo {shlex.quote(line)}; echo {shlex.quote(line)} >&2\n" for line in lines)
    for code in (0, 1, 2, 5, 8):
        conversion = convert_series(few, work, program=fake(f"{script}exit {code}"))
        assert conversion.warnings == ("other",)
        assert not any(canary in repr(conversion) for canary in CANARIES)
    assert capfd.readouterr() == ("", "")


def test_nipypes_own_failure_tells_nothing_of_what_it_was_doing(
    few: list[Path], converter: str, work: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from nipype.pipeline.engine import nodes as engine

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(CANARIES[2])

    monkeypatch.setattr(engine, "savepkl", fail)
    before = Path.cwd()
    conversion = convert_series(few, work, program=converter)
    assert (conversion.outcome, conversion.images, conversion.exit_code) == ("failed", (), -1)
    assert conversion.reason == "The workflow around the converter stopped."
    assert list(work.iterdir()) == []
    assert Path.cwd() == before
    assert capfd.readouterr() == ("", "")


def test_what_a_killed_run_leaves_is_private_and_is_swept(fake: Fake, few: list[Path], work: Path) -> None:
    program = fake("kill -9 $PPID; exit 2")
    script = (
        "import sys\nfrom pathlib import Path\nfrom tasks.review.convert import convert_series\n"
        "convert_series([Path(one) for one in sys.argv[3:]], Path(sys.argv[1]), program=sys.argv[2])\n"
    )
    words = [sys.executable, "-c", script, str(work), str(program), *map(str, few)]
    ended = subprocess.run(words, cwd=REPOSITORY, capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    (left,) = work.iterdir()
    assert left.stat().st_mode & 0o777 == 0o700
    assert sweep_temporaries(work) == 1
    assert list(work.iterdir()) == []
    assert all(file.is_file() for file in few), "what the links led to is still there"


ALONE = """
import os, sys
from pathlib import Path
asked = []
words = "connect getaddrinfo gethostbyname gethostbyaddr sendto sendmsg".split()
sys.addaudithook(lambda event, args: asked.append(event) if event in {f"socket.{word}" for word in words} else None)
if len(sys.argv) == 1:
    import nipype
    sys.exit("asked" if asked else 0)
import tasks.review.convert as convert
print("early", sorted({name.split(".")[0] for name in sys.modules} & {"nipype", "nibabel", "numpy", "isal"}))
conversion = convert.convert_series([Path(one) for one in sys.argv[3:]], Path(sys.argv[1]), program=sys.argv[2])
course = convert.time_course(conversion.images[0].image, Path(sys.argv[1]) / "course")
print("outcome", conversion.outcome, course.unsteady)
print("asked", sorted(set(asked)))
print("etelemetry", "etelemetry" in sys.modules)
print("folder", os.getcwd())
"""


@pytest.mark.parametrize("interactive", [False, True], ids=["script", "console"])
def test_no_network_is_asked_and_no_settings_of_the_user_are_read(
    interactive: bool, few: list[Path], converter: str, tmp_path: Path
) -> None:
    home, here, elsewhere = tmp_path / "home", tmp_path / "here", tmp_path / "elsewhere"
    for folder in (home / ".nipype", here, elsewhere):
        folder.mkdir(parents=True)
    settings = (
        f"[logging]\nlog_to_file = true\nlog_directory = {elsewhere}\nworkflow_level = DEBUG\n"
        f"[execution]\ncreate_report = true\nwrite_provenance = true\ncrashdump_dir = {elsewhere}\n"
        "check_version = true\nremove_unnecessary_outputs = true\nstop_on_unknown_version = true\n"
        "[monitoring]\nenabled = true\n"
    )
    (home / ".nipype" / "nipype.cfg").write_text(settings)
    (here / "nipype.cfg").write_text(settings)
    (home / ".dcm2nii.ini").write_text("isGZ=1\nfilename=%n_%i\n")
    decoy = tmp_path / "decoy" / "dcm2niix"
    decoy.parent.mkdir()
    decoy.write_text(f"#!/bin/sh\n/usr/bin/env > {shlex.quote(str(elsewhere))}/started\n")
    decoy.chmod(0o755)
    kept = {
        "PATH": f"{decoy.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    environment = {**kept, "HOME": str(home), "SMTP_PASSWORD": CANARIES[2]}
    # A console has a main module without a file, which is how nipype tells one.
    script = tmp_path / "script.py"
    script.write_text(ALONE)
    words = [sys.executable, *(["-c", ALONE] if interactive else [script])]
    # Where it may, the machine takes the network away altogether.
    prefix = no_network()
    command = [*prefix, *words, tmp_path / "work", converter, *few]
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "early []",
        "outcome whole 0",
        "asked []",
        "etelemetry False",
        f"folder {here}",
    ]
    assert {path.name for path in (tmp_path / "work").rglob("*")} == {
        *("course", "image.json", "image.nii", "mean.nii", "sd.nii", "tsnr.nii")
    }
    assert list(elsewhere.iterdir()) == []
    assert [path.name for path in here.iterdir()] == ["nipype.cfg"]
    assert {path.name for path in home.rglob("*")} == {".nipype", "nipype.cfg", ".dcm2nii.ini"}
    if prefix and interactive:
        left = subprocess.run([*prefix, *words], cwd=tmp_path, env=environment, capture_output=True, check=False)
        assert left.returncode == 1, "left alone, nipype asks, and that is seen"


# What it was warned of -----------------------------------------------------------------------------------------------

LINES = {
    "Warning: Missing images? Expected 40 images, but instance number ranges from 1 to 41": "images-missing",
    "Warning: DICOM images may be missing, expected 36 spatial locations per volume, but found 35.": "images-missing",
    "Warning: Interslice distance varies in this volume (incompatible with NIfTI format).": "slices-uneven",
    "Slices not stacked: echo varies (TE 4.9, 7.4; echo 1, 2). Use 'merge 2D slices' option to force": "not-stacked",
    "Slices stacked despite Study Date/Time (0008,0020;0008,0030) and Study UID variation": "stacked",
    "45 images have identical time, series, acquisition and instance values. DUPLICATES REMOVED.": "duplicates",
    "Warning: Instance Number (0020,0013) order is not spatial.": "order",
    "Warning: Instance number (0020,0013) not found: in/0000000.dcm": "number-missing",
    "Warning: Issue870: Slice timing range of first volume: range 0..1930 ms, TA=1930 ms": "slice-timing",
    "Warning: Unable to determine slice times for early GE HyperBand.": "slice-timing",
    "Warning: Discrepancy between reported (2s) and estimated (2.2s) repetition time (issue 560).": "repetition-time",
    "Note: 1 volumes appear to be ADC or trace images that will be removed to allow processing": "derived-volume",
    "Warning: This diffusion series does not have a B0 (reference) volume": "diffusion",
    "Warning: Intensity slope/intercept varies between slices! [check resulting images]": "scaling",
    "Warning: Gantry Tilt Correction is new: please validate conversions": "gantry-tilt",
    "Warning: Guessing this is a mosaic up to 36 slices (issue 337).": "mosaic",
    "Unsupported transfer syntax '1.2.3' (see www.example.org)": "pixels",
    "CharLS failed to read image.": "pixels",
    "Error: RLE header corrupted 1 != 0": "pixels",
    "Warning: Philips enhanced DICOMs (hint: export as classic DICOM)": "enhanced",
    "Warning: Matlab DICOMANON can scramble SeriesInstanceUID (0020,000e) and remove crucial data": "anonymized",
    "Illegal DICOM tag 0011,0011 (odd element length 5): in/0000000.dcm": "not-standard",
    "Warning: Double-precision DICOM conversion untested: please provide samples to developer": "experimental",
    "Warning: CMRR PMU: no physio streams written": "recording",
    "Unable to determine spatial orientation: 0020,0037 missing (Type 1 attribute) Series 0": "orientation",
    "Warning: Patient Position (0018,5100) not specified (issue 642).": "position-missing",
    "Warning: Unable to determine manufacturer (0008,0070), so conversion is not tuned": "manufacturer-missing",
    "Warning: Empty protocol name(s) (0018,1030)": "protocol-missing",
    "Warning: something that a later version says": "other",
    "Error: something that a later version says": "other",
    "Error: Converted 2 of 4 files": "",
    "Found 4 DICOM file(s)": "",
    "Defaults ignored": "",
    "Convert 2 DICOM as ../images/image (640x480x2x1)": "",
    "Philips Scaling Values RS:RI:SS = 1.08205:0:0.00329864 (see PMC3998685)": "",
    "Conversion required 0.015866 seconds (0.012676 for core code).": "",
    "": "",
}
"""What dcm2niix v1.0.20260724 prints, and what it is to us."""


@pytest.mark.parametrize("line", LINES)
def test_a_line_has_one_meaning(line: str) -> None:
    assert _warning(line) == LINES[line]


def test_every_warning_can_be_heard_and_has_its_sentence() -> None:
    assert set(LINES.values()) - {""} == set(WARNINGS)
    assert all(text.endswith(".") and text[0].isupper() for text in (*WARNINGS.values(), *CONVERSION_OUTCOMES.values()))


# Compressed ----------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=2000), st.sampled_from([0, 1, 700, 5000]))
def test_what_is_compressed_unpacks_to_what_it_was(tmp_path: Path, content: bytes, times: int) -> None:
    image, target = tmp_path / "image.nii", tmp_path / "target.nii.gz"
    image.write_bytes(content * times)
    compress_image(image, target)
    packed = target.read_bytes()
    assert gzip.decompress(packed) == content * times
    assert packed[:8] == b"\x1f\x8b\x08\0\0\0\0\0", "no name, no time (RFC 1952)"


def test_compressed_images_are_equal_whatever_their_name_and_time(few: list[Path], converter: str, work: Path) -> None:
    (one,) = convert_series(few, work, program=converter).images
    moved = work / "another name.nii"
    shutil.copy(one.image, moved)
    os.utime(moved, (1, 1))
    compress_image(one.image, work / "one.nii.gz")
    compress_image(moved, work / "two.nii.gz")
    assert (work / "one.nii.gz").read_bytes() == (work / "two.nii.gz").read_bytes()
    compressed, plain = nibabel.load(work / "one.nii.gz"), nibabel.load(one.image)
    assert np.array_equal(np.asanyarray(compressed.dataobj), np.asanyarray(plain.dataobj))


def test_a_compressor_that_errs_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from isal import isal_zlib

    image, target = tmp_path / "image.nii", tmp_path / "image.nii.gz"
    image.write_bytes(nifti())
    target.write_bytes(b"old")

    class Forgetful:
        """Forget one byte in the middle, and be consistent about it."""

        def __init__(self, *arguments: int) -> None:
            self._packer = zlib.compressobj(1, zlib.DEFLATED, 31)

        def compress(self, data: bytes) -> bytes:
            return self._packer.compress(data[:100] + data[101:])

        def flush(self) -> bytes:
            return self._packer.flush()

    class Unfinished(Forgetful):
        def compress(self, data: bytes) -> bytes:
            return self._packer.compress(data)

        def flush(self) -> bytes:
            return self._packer.flush()[:-1]

    for broken in (Forgetful, Unfinished):
        monkeypatch.setattr(isal_zlib, "compressobj", broken)
        with pytest.raises(DamagedRecordError):
            compress_image(image, target)
        assert target.read_bytes() == b"old"
        assert {path.name for path in tmp_path.iterdir()} == {"image.nii", "image.nii.gz"}


# Over time -----------------------------------------------------------------------------------------------------------


def test_mean_spread_and_their_ratio_are_numpys(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    data = (np.linspace(300, 1500, 9)[:, None, None, None] + rng.normal(0, 20, (9, 8, 7, 60))).astype("i2")
    data[..., :2] += 600  # not yet steady
    image = tmp_path / "image ü.nii"
    nibabel.save(nibabel.Nifti1Image(data, np.diag([2, 2, 3, 1])), image)
    before = Path.cwd()
    course = time_course(image, tmp_path / "course")
    assert course.unsteady == 2
    expected = (data.mean(3), data.std(3), data.mean(3) / data.std(3))
    for path, values in zip((course.mean, course.sd, course.tsnr), expected, strict=True):
        step = (values.max() - values.min()) / 65_000
        assert np.abs(nibabel.load(path).get_fdata() - values).max() <= step + 1e-3
        assert np.array_equal(nibabel.load(path).affine, nibabel.load(image).affine)
    assert {path.name for path in (tmp_path / "course").iterdir()} == {"mean.nii", "sd.nii", "tsnr.nii"}
    assert Path.cwd() == before


def test_an_image_without_time_is_refused_without_its_path(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 3, 3), "i2"), np.eye(4)), tmp_path / "image.nii")
    (tmp_path / "text.nii").write_text(json.dumps("no image"))
    for path in (tmp_path / "image.nii", tmp_path / "text.nii", tmp_path / "nothing.nii"):
        with pytest.raises(ValueError, match=r"^the image cannot be measured over time$"):
            time_course(path, tmp_path / "course")
        assert list((tmp_path / "course").iterdir()) == []
