"""Pictures drawn to files show what the planes show, with sides and proportions right, and the same bytes each time."""

from __future__ import annotations

import io
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageSequence

from tests.review import phantom
from viewer.__main__ import main
from viewer.image import Image, from_memory
from viewer.opening import open_images
from viewer.render import KINDS, Look, draw

BALL = (24.0, 10.0, 8.0)
SPACING = np.array([1.0, 1.5, 3.0])
SHAPE = (80, 60, 30)


def _ball(volumes: int = 1) -> Image:
    """Make an image, of voxels longer than wide, of a ball on the patient's left, in front and above."""
    affine = np.diag([*(-SPACING[:1]), *SPACING[1:], 1.0])
    affine[:3, 3] = -(affine[:3, :3] @ (np.array(SHAPE) - 1) / 2)
    places = np.stack(np.meshgrid(*(np.arange(size) for size in SHAPE), indexing="ij"), axis=-1)
    away = np.linalg.norm(places @ affine[:3, :3].T + affine[:3, 3] - np.array((-BALL[0], *BALL[1:])), axis=-1)
    block = np.where(away < 9, 1000, 100).astype(np.int16)
    return from_memory(np.stack([block.T // (number + 1) for number in range(volumes)]), affine=affine, label="ball")


def _opened(content: bytes) -> Pillow.Image:
    return Pillow.open(io.BytesIO(content))


def _bright(picture: np.ndarray) -> tuple[float, float, float, float]:
    """Give middle (row, column) and extent (rows, columns) of what is bright, letters and lines left out."""
    grey = (picture[..., 0] == picture[..., 2]) & (picture[..., 0] > 200)
    rows, columns = np.nonzero(grey[20:-20, 30:-30])
    return float(np.median(rows)) + 20, float(np.median(columns)) + 30, float(np.ptp(rows)), float(np.ptp(columns))


def test_sides_and_proportions_are_right() -> None:
    look = Look(at=(-BALL[0], *BALL[1:]), window=(0, 1000), height=400)
    picture = np.asarray(_opened(draw(_ball(), "ortho", look)).convert("RGB"))
    wide = [round(400 * SHAPE[a] * SPACING[a] / (SHAPE[b] * SPACING[b])) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert picture.shape[1] == pytest.approx(sum(wide) + 8, abs=3)
    lefts = [0, wide[0] + 4, wide[0] + wide[1] + 8]
    for left, width, (across, down) in zip(lefts, wide, ((0, 1), (0, 2), (1, 2)), strict=True):
        row, column, high, broad = _bright(picture[:, left : left + width])
        pixel = 400 / (SHAPE[down] * SPACING[down])
        assert high == pytest.approx(broad, abs=2.5 * SPACING.max() * pixel), "a ball is round"
        sign = 1 if across == 0 else -1  # the patient's left is on the right; the nose is on the left
        assert column == pytest.approx(width / 2 + sign * BALL[across] * pixel, abs=3 * pixel)
        assert row == pytest.approx(200 - BALL[down] * pixel, abs=3 * pixel)


def test_neurological_is_the_other_way_round() -> None:
    image = _ball()
    place, window = (-BALL[0], *BALL[1:]), (0.0, 1000.0)
    one = np.asarray(_opened(draw(image, "oblique", Look(at=place, window=window))).convert("RGB"))
    other = draw(image, "oblique", Look(at=place, window=window, convention="neurological"))
    mirrored = np.asarray(_opened(other).convert("RGB"))
    assert _bright(one)[1] == pytest.approx(one.shape[1] - _bright(mirrored)[1], abs=3)
    assert _bright(one)[1] > one.shape[1] / 2


def test_a_cut_through_a_ball_is_round_at_any_angle() -> None:
    image = _ball()
    for turn, tilt, spin in ((0, 0, 0), (35, 0, 0), (0, -50, 0), (20, 40, 70), (90, 0, 0)):
        look = Look(at=(-BALL[0], *BALL[1:]), turn=turn, tilt=tilt, spin=spin, window=(400, 700), height=600)
        _, _, high, broad = _bright(np.asarray(_opened(draw(image, "oblique", look)).convert("RGB")))
        assert high == pytest.approx(broad, rel=0.2), (turn, tilt, spin)


def test_a_run_shows_every_volume_and_else_every_slice() -> None:
    frames = [one.convert("L") for one in ImageSequence.Iterator(_opened(draw(_ball(5), "gif")))]
    assert len(frames) == 5
    means = [np.asarray(one).mean() for one in frames]
    assert means == sorted(means, reverse=True)
    assert len(list(ImageSequence.Iterator(_opened(draw(_ball(), "gif"))))) in SHAPE


@pytest.mark.parametrize("kind", KINDS)
def test_equal_images_give_equal_bytes(kind: str) -> None:
    assert draw(_ball(2), kind, Look(turn=10)) == draw(_ball(2), kind, Look(turn=10))


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((1, 9, 9), np.int16), ((1, 1, 1), np.uint8), ((400, 3, 2), np.float32), ((2, 3, 300), np.uint16)],
)
@pytest.mark.parametrize("kind", KINDS)
def test_odd_shapes_are_drawn_too(shape: tuple[int, ...], dtype: type, kind: str) -> None:
    image = from_memory(np.ones((1, *shape), dtype), affine=np.eye(4))
    assert _opened(draw(image, kind, Look(height=64))).size[0] <= 6 * 64 * 8 + 64


def test_the_command_draws_manifests_folders_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    path = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.arange(4000, dtype=np.int16).reshape(10, 20, 20), affine), path)
    series = tmp_path / "series"
    phantom.write(series, phantom.instances(phantom.SAGITTAL))
    out = tmp_path / "out"
    for source, kind, name in (
        (path, "ortho", "scan_ortho.png"),
        (path, "gif", "scan.gif"),
        (series, "mosaic", "series_mosaic.png"),
    ):
        assert main(["render", str(source), "--kind", kind, "--out", str(out), "--json"]) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["pictures"] == [name]
        assert (out / name).stat().st_size > 100
    (image,) = open_images(path)
    words = ["render", str(path), "--kind", "oblique", "--out", str(out), "--at", "-4", "2", "1.5", "--turn", "12"]
    assert main([*words, "--tilt", "-7", "--slab", "6", "--slab-mode", "max", "--window", "0", "900"]) == 0
    look = Look(at=(-4, 2, 1.5), turn=12, tilt=-7, slab_mm=6, slab_mode="max", window=(0, 900))
    assert (out / "scan_oblique.png").read_bytes() == draw(image, "oblique", look, title="scan")


@pytest.mark.parametrize(
    "words",
    [
        ["--at", "1", "2"],
        ["--at", "a", "b", "c"],
        ["--window", "5", "5"],
        ["--turn", "nan"],
        ["--volume", "-1"],
        ["--kind", "x"],
    ],
)
def test_what_cannot_be_drawn_is_told(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", "head.nii", "--out", str(tmp_path), *words]) == 2
    assert words[0] in capsys.readouterr().err


def test_a_file_that_is_no_image_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.nii.gz").write_bytes(b"nothing")
    assert main(["render", str(tmp_path / "a.nii.gz"), "--out", str(tmp_path / "out"), "--kind", "ortho"]) == 16
    assert "a.nii.gz" in capsys.readouterr().err
    assert main(["render", str(tmp_path / "b.nii.gz"), "--out", str(tmp_path / "out"), "--kind", "ortho"]) == 16
