"""Each number is what an independent program or the textbook gives; planted faults are named, good images are not."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage, stats

from pipelines.deidentify import find_dcm2niix
from tasks.review.convert import convert_series, time_course
from tasks.review.flag import Measured, flag_outliers
from tasks.review.quality.diffusion import distinct_directions, shell_numbers
from tasks.review.quality.functional import dvars, ghost_ratio
from tasks.review.quality.mask import head_mask, otsu_threshold
from tasks.review.quality.measure import Maps, Quality, measure_image
from tasks.review.quality.metric import METRICS
from tasks.review.quality.protocol import Expected
from tasks.review.quality.structural import entropy_focus, measure_volume
from tasks.review.sidecar import read_sidecar
from tests.deidentify.conversion import OTHERS, SAMPLE, files_of

SHAPE = (32, 36, 20)
AFFINE = np.diag([3.0, 3.0, 4.0, 1.0])
EPI = {
    "PhaseEncodingDirection": "j-",
    "RepetitionTime": 2.0,
    "EchoTime": 0.03,
    "ImageType": ["ORIGINAL", "PRIMARY", "M"],
}


def head(*seed: int) -> NDArray[np.float32]:
    """Make an ellipsoid with texture in noisy air: magnitudes, so the noise is Rayleigh's."""
    chance = np.random.default_rng(seed or 0)
    x, y, z = np.indices(SHAPE)
    inside = ((x - 15.5) / 11) ** 2 + ((y - 17.5) / 13) ** 2 + ((z - 9.5) / 7) ** 2 < 1
    signal = inside * (800 + 120 * np.sin(x / 3) + 80 * np.cos(y / 4))
    noise = chance.normal(0, 12, (2, *SHAPE))
    return np.asarray(np.hypot(signal + noise[0], noise[1]), np.float32)


def run(volumes: int = 24, seed: int = 0) -> NDArray[np.int16]:
    """Make volumes of one head, each with noise of its own."""
    return np.stack([np.rint(head(seed, volume)) for volume in range(volumes)], axis=-1).astype(np.int16)


def save(folder: Path, data: NDArray[Any], affine: NDArray[Any] = AFFINE) -> Path:
    path = folder / "image.nii"
    nibabel.save(nibabel.Nifti1Image(data, affine), path)
    return path


def measured(folder: Path, data: NDArray[Any], sidecar: dict[str, Any] | None = None, **more: Any) -> Quality:
    path = save(folder, data)
    maps = None
    if data.ndim == 4 and data.shape[3] >= 5 and "bval" not in more:
        over_time = time_course(path, folder / "maps")
        maps = Maps(tsnr=over_time.tsnr, unsteady=over_time.unsteady)
    quality = measure_image(path, EPI if sidecar is None else sidecar, maps=maps, **more)
    assert Quality.from_json(json.loads(json.dumps(quality.to_json()))).to_json() == quality.to_json()
    assert {one.name for one in quality.metrics} <= METRICS.keys()
    assert all((one.value is None) == bool(one.reason) for one in quality.metrics)
    return quality


def codes(quality: Quality) -> set[str]:
    return {check.code for check in quality.checks}


# -- values ------------------------------------------------------------------------------------------------------------


def test_dvars_is_what_nipype_gives(tmp_path: Path) -> None:
    data = run(30)
    mask = head_mask(data.mean(axis=3))
    path = save(tmp_path, data)
    nibabel.save(nibabel.Nifti1Image(mask.astype(np.uint8), AFFINE), tmp_path / "mask.nii")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of nitime's and nipype's own imports
        from nipype.algorithms.confounds import compute_dvars

        standardised, plain, _ = compute_dvars(str(path), str(tmp_path / "mask.nii"))
    ours, ours_standardised = dvars(data, mask)
    assert ours == pytest.approx(plain, rel=1e-4)
    assert ours_standardised == pytest.approx(standardised, rel=1e-3)


def test_structural_measures_are_the_textbooks(tmp_path: Path) -> None:
    volume = head()
    quality = measured(tmp_path, volume, {})
    values = quality.values()
    mask = head_mask(volume)
    # The mask is the ellipsoid, give or take its surface.
    assert np.count_nonzero(mask) == pytest.approx(4 / 3 * math.pi * 11 * 13 * 7, rel=0.1)
    assert values["head_volume"] == pytest.approx(np.count_nonzero(mask) * 36 / 1000, rel=1e-5)
    flat = volume[volume != 0].astype(np.float64)
    root = np.sqrt((flat**2).sum())
    greatest = flat.size * (1 / np.sqrt(flat.size)) * np.log(1 / np.sqrt(flat.size))
    assert values["efc"] == pytest.approx((1 / greatest) * (flat / root * np.log(flat / root)).sum(), rel=1e-4)
    air, inside = volume[~mask].astype(np.float64), volume[mask].astype(np.float64)
    assert values["fber_median"] == pytest.approx(np.median(inside**2) / np.median(air**2), rel=1e-3)
    mad = stats.median_abs_deviation(air, scale="normal")
    assert values["snr_air"] == pytest.approx(0.6551 * np.median(inside) / mad, rel=1e-3)
    assert values["background_kurtosis"] == pytest.approx(stats.kurtosis(air), rel=1e-3, abs=1e-4)
    assert values["background_p95"] == pytest.approx(np.percentile(air, 95) / np.median(inside), rel=1e-4)


def test_otsus_threshold_parts_as_an_exhaustive_search_does() -> None:
    values = head().ravel()
    threshold = otsu_threshold(values)

    def within(at: float) -> float:
        low, high = values[values <= at], values[values > at]
        return float(low.size * low.var() + high.size * high.var())

    best = min(np.linspace(values.min() + 1, values.max() - 1, 400), key=within)
    assert within(threshold) <= within(float(best)) * 1.01


def test_the_ghost_ratio_is_the_planted_one() -> None:
    volume = np.zeros(SHAPE, np.float32)
    mask = np.zeros(SHAPE, bool)
    mask[10:22, 4:16] = True
    volume[mask] = 1000
    volume[np.roll(mask, 18, axis=1) & ~mask] += 70
    volume += 10
    assert ghost_ratio(volume, mask, 1) == pytest.approx(70 / 1010, rel=1e-5)
    assert ghost_ratio(volume, mask, 0) == pytest.approx(0, abs=0.05)


def test_shells_and_directions_are_counted() -> None:
    values = np.array([0, 5, 995, 1000, 1005, 2000, 2010, 3000])
    assert shell_numbers(values).tolist() == [0, 0, 1, 1, 1, 2, 2, 3]
    vectors = np.array([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, 0.99999, 0.001], [0, 0, 1], [0, 0, 0]])
    assert distinct_directions(vectors) == [0, 2, 4]


@given(st.sampled_from([0.01, 0.5, 3.0, 200.0]), st.sampled_from([(0,), (1,), (2,), (0, 1), (0, 1, 2)]))
@settings(max_examples=12, deadline=None)
def test_no_measure_depends_on_the_unit_or_the_direction_of_axes(factor: float, axes: tuple[int, ...]) -> None:
    volume = head(1)
    other = np.ascontiguousarray(np.flip(volume * np.float32(factor), axes))
    one = measure_volume(volume, head_mask(volume), (3, 3, 4))
    two = measure_volume(other, head_mask(other), (3, 3, 4))
    for before, after in zip(one, two, strict=True):
        assert before.name == after.name
        assert after.value == pytest.approx(before.value, rel=2e-3)
    assert entropy_focus(other) == pytest.approx(entropy_focus(volume), rel=1e-4)


def test_scaling_in_the_file_is_applied(tmp_path: Path) -> None:
    data = run(10)
    plain = measured(tmp_path, data)
    image = nibabel.Nifti1Image(data, AFFINE)
    image.header.set_slope_inter(0.25, 0)
    nibabel.save(image, tmp_path / "scaled.nii")
    scaled = measure_image(tmp_path / "scaled.nii", EPI)
    assert scaled.course is not None
    assert plain.course is not None
    assert scaled.course.global_mean[0] == pytest.approx((plain.course.global_mean[0] or 0) / 4, rel=1e-4)
    for name in ("dvars", "dvars_std", "efc", "gsr"):
        assert scaled.values()[name] == pytest.approx(plain.values()[name], rel=1e-3)


# -- planted faults ----------------------------------------------------------------------------------------------------


def test_a_good_run_has_no_check_and_plausible_numbers(tmp_path: Path) -> None:
    quality = measured(tmp_path, run())
    assert codes(quality) == set()
    values = quality.values()
    assert values["dvars_std"] == pytest.approx(1, abs=0.15), "noise alone is an undisturbed run"
    assert values["tsnr"] == pytest.approx(800 / 12, rel=0.15)
    assert values["spikes"] == 0
    assert abs(values["drift"]) < 0.1
    assert values["motion_index"] < 0.05
    assert abs(values["gsr"]) < 0.01


def _spike(data: NDArray[Any]) -> None:
    x, y = np.indices(SHAPE[:2])
    data[:, :, 7, 11] += (150 * (1 + np.cos(x + y))).astype(np.int16)


def _drop_a_volume(data: NDArray[Any]) -> None:
    data[..., 5] //= 20


def _drop_a_slice(data: NDArray[Any]) -> None:
    data[:, :, 9, 13] //= 20


def _double_a_volume(data: NDArray[Any]) -> None:
    data[..., 8] = data[..., 7]


def _clip(data: NDArray[Any]) -> None:
    np.minimum(data, 850, out=data)


@pytest.mark.parametrize(
    ("plant", "code", "told"),
    [
        (_spike, "spike", "volume 11, slice 7"),
        (_drop_a_volume, "dropped-volume", "volume 5"),
        (_drop_a_slice, "dropped-slice", "volume 13, slice 9"),
        (_double_a_volume, "double-volume", "volume 8"),
        (_clip, "clipped", "greatest value"),
    ],
)
def test_a_planted_fault_is_named_and_nothing_else(
    plant: Callable[[NDArray[Any]], None], code: str, told: str, tmp_path: Path
) -> None:
    data = run()
    plant(data)
    quality = measured(tmp_path, data)
    assert codes(quality) == {code}
    assert told in quality.checks[0].text


def test_motion_drift_and_unsteady_volumes_show(tmp_path: Path) -> None:
    data = run()
    good = measured(tmp_path, data).values()
    moved = data.copy()
    moved[..., 12:] = np.roll(data[..., 12:], 1, axis=0)
    after = measured(tmp_path, moved)
    assert after.values()["motion_index"] > 10 * good["motion_index"]
    assert "spike" not in codes(after), "all slices move together"
    drifting = (data * np.linspace(1, 1.1, data.shape[3])).astype(np.int16)
    assert measured(tmp_path, drifting).values()["drift"] == pytest.approx(9.5, abs=0.5)
    bright = data.copy()
    bright[..., :2] *= 2
    assert measured(tmp_path, bright).values()["unsteady_volumes"] == 2


def test_a_ghost_is_flagged_among_its_like(tmp_path: Path) -> None:
    runs = [measured(tmp_path, run(8, seed=seed)).values() for seed in range(8)]
    ghosted = run(8, seed=9).astype(np.float32)
    ghosted += 0.12 * np.roll(ghosted, SHAPE[1] // 2, axis=1)
    runs.append(measured(tmp_path, ghosted.astype(np.int16)).values())
    images = [Measured(key=str(number), scanner="a", sequence="b", metrics=one) for number, one in enumerate(runs)]
    flags = flag_outliers(images)
    assert "gsr" in {flag.metric for flag in flags["8"]}
    assert not any("gsr" in {flag.metric for flag in flags[str(number)]} for number in range(8))


def _gradients(folder: Path, values: list[float], vectors: NDArray[Any]) -> dict[str, Path]:
    (folder / "a.bval").write_text(" ".join(f"{one:g}" for one in values))
    (folder / "a.bvec").write_text("\n".join(" ".join(f"{one:.6f}" for one in row) for row in vectors.T))
    return {"bval": folder / "a.bval", "bvec": folder / "a.bvec"}


def _directions(count: int) -> NDArray[Any]:
    """Spread directions over half a sphere (a Fibonacci spiral)."""
    height = (np.arange(count) + 0.5) / count
    turn = np.arange(count) * math.pi * (3 - math.sqrt(5))
    flat = np.sqrt(1 - height**2)
    return np.column_stack([flat * np.cos(turn), flat * np.sin(turn), height])


def test_diffusion_is_described_and_its_faults_are_named(tmp_path: Path) -> None:
    data = run(22)
    data[..., 2:] //= 2
    vectors = np.vstack([np.zeros((2, 3)), _directions(20)])
    files = _gradients(tmp_path, [0, 0] + [1000] * 20, vectors)
    quality = measured(tmp_path, data, **files)
    assert codes(quality) == set()
    values = quality.values()
    assert (values["b0_volumes"], values["shells"], values["directions"], values["dropout_slices"]) == (2, 1, 20, 0)
    assert "dvars" not in values
    dark = data.copy()
    dark[:, :, 6, 9] = dark[:, :, 6, 9] * 6 // 10
    lost = measured(tmp_path, dark, **files)
    assert codes(lost) == {"signal-dropout"}
    assert "volume 9, slice 6" in lost.checks[0].text
    assert codes(measured(tmp_path, data, **_gradients(tmp_path, [0] * 21, vectors[:21]))) == {"gradients-differ"}
    repeated = vectors.copy()
    repeated[5] = -repeated[4]
    assert codes(measured(tmp_path, data, **_gradients(tmp_path, [0, 0] + [1000] * 20, repeated))) == {
        "direction-repeated"
    }
    repeated[5] *= 3
    odd = measured(tmp_path, data, **_gradients(tmp_path, [0, 0] + [1000] * 20, repeated))
    assert "direction-invalid" in codes(odd)


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({"tr_ms": 2300}, "Repetition time: 2000 ms, where the study wants 2300 ms."),
        ({"te_ms": 25}, "Echo time: 30 ms, where the study wants 25 ms."),
        ({"voxel_mm": (3, 3, 3)}, "Voxel size: 3 x 3 x 4 mm, where the study wants 3 x 3 x 3 mm."),
        ({"fov_mm": (96, 96)}, "Field of view: 96 x 108 mm, where the study wants 96 x 96 mm."),
        ({"matrix": (32, 32)}, "Matrix: 32 x 36 voxels, where the study wants 32 x 32 voxels."),
        ({"orientation": "coronal"}, "Orientation: axial, where the study wants coronal."),
        ({"slices": 21}, "Number of slices: 20, where the study wants 21."),
        ({"volumes": 10}, "Number of volumes: 8, where the study wants 10."),
        ({"directions": 6}, "Number of directions: 0, where the study wants 6."),
    ],
)
def test_what_is_not_as_the_study_wants_it_is_named_with_both_numbers(
    wanted: dict[str, Any], told: str, tmp_path: Path
) -> None:
    right = Expected(
        tr_ms=2010, te_ms=30, voxel_mm=(3, 3, 4), fov_mm=(108, 96), matrix=(36, 32), orientation="axial", slices=20,
        volumes=8, directions=0,
    )  # fmt: skip
    data = run(8)
    assert codes(measured(tmp_path, data, expected=right)) == set()
    quality = measured(tmp_path, data, expected=Expected(**wanted))
    assert [check.text for check in quality.checks] == [told]
    silent = measured(tmp_path, data, {}, expected=Expected(tr_ms=2000))
    assert "not stated" in silent.checks[0].text


# -- strange images ----------------------------------------------------------------------------------------------------


def _strange(folder: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    colour = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    holes = head()
    holes[3:6], holes[9] = np.nan, np.inf
    made = {
        "colour": colour,
        "complex": head().astype(np.complex64),
        "a picture": head()[:, :, 9],
        "five axes": np.stack([run(3)] * 2, axis=-1),
        "holes": holes,
        "constant": np.full(SHAPE, 7, np.int16),
        "empty": np.zeros(SHAPE, np.int16),
        "one volume": head()[..., np.newaxis],
        "three volumes": run(3),
        "zero volumes": np.zeros((*SHAPE, 6), np.int16),
        "one slice": run(8)[:, :, 9:10],
        "tiny": np.arange(8, dtype=np.int16).reshape(2, 2, 2),
        "negative": (head() - 900).astype(np.int16),
    }
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    for name, data in made.items():
        path = folder / f"{name.replace(' ', '-')}.nii"
        nibabel.save(nibabel.Nifti1Image(data, AFFINE), path)
        found[name] = (path, {})
    whole = found["three volumes"][0].read_bytes()
    for name, content in {"cut": whole[: len(whole) // 2], "no header": b"x" * 100, "nothing": b""}.items():
        path = folder / f"{name.replace(' ', '-')}.nii"
        path.write_bytes(content)
        found[name] = (path, {})
    found["missing"] = (folder / "missing.nii", {})
    found["phase"] = (found["holes"][0], {"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]})
    return found


def test_no_image_is_too_strange(tmp_path: Path) -> None:
    for name, (path, sidecar) in _strange(tmp_path).items():
        quality = measure_image(path, sidecar, expected=Expected(slices=20))
        assert quality.note or quality.metrics or quality.checks, name
        assert all(one.value is None or math.isfinite(one.value) for one in quality.metrics), name
        json.dumps(quality.to_json(), allow_nan=False)
        if name in ("cut", "no header", "nothing", "missing", "colour", "complex", "phase"):
            assert quality.note, name
    unreadable = tmp_path / "a.bval"
    unreadable.write_bytes(b"\xff\xfe")
    quality = measured(tmp_path, run(8), bval=unreadable, bvec=unreadable)
    assert codes(quality) == {"gradients-differ"}


def test_air_that_was_blanked_is_no_sample_of_noise(tmp_path: Path) -> None:
    volume = head()
    mask = ndimage.binary_dilation(head_mask(volume), iterations=2)
    volume[~mask] = 0
    quality = measured(tmp_path, volume, {})
    undefined = {one.name: one.reason for one in quality.metrics if one.value is None}
    assert set(undefined) == {"fber_median", "snr_air", "background_p95", "background_mad", "background_kurtosis"}
    assert all("zero" in reason for reason in undefined.values())
    assert quality.values()["efc"] > 0


# -- real scanners -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", [*SAMPLE, *(pytest.param(one, marks=pytest.mark.long) for one in OTHERS)])
def test_real_images_give_plausible_numbers(folder: str, scanner_data: Path, tmp_path: Path) -> None:
    conversion = convert_series(files_of(scanner_data / folder), tmp_path, program=find_dcm2niix())
    for image in conversion.images:
        sidecar = read_sidecar(image.sidecar) if image.sidecar else {}
        quality = measure_image(image.image, sidecar, bval=image.bval, bvec=image.bvec)
        values = quality.values()
        assert quality.note or values
        if values:
            assert 0.3 < values["efc"] < 0.95
            assert 50 < values["head_volume"] < 8000
            assert values["clipped_share"] < 1e-4
        assert not codes(quality) & {"gradients-differ", "clipped", "direction-invalid", "constant-image"}
