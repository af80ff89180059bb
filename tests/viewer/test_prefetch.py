"""The loader gives what the files hold, in the order wanted, within its memory, and outlives and outruns every end."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from viewer import prefetch
from viewer.image import Image
from viewer.opening import open_images
from viewer.prefetch import Fault, Loaded, Loader, Request
from viewer.windowing import measure

# Only against a test that hangs; nothing is measured by it.
PATIENCE_S = 60
CASE_BYTES = 1 << 20


def _nifti(path: Path, seed: int, shape: tuple[int, ...] = (64, 64, 128)) -> Path:
    """Write a case of one mebibyte whose voxels tell it from every other."""
    voxels = np.random.default_rng(seed).integers(-900, 3000, shape, np.int16)
    nibabel.Nifti1Image(voxels, np.diag([0.8, 0.9, 2.5, 1.0])).to_filename(path)
    return path


def _request(path: Path, label: str = "") -> Request:
    return Request(key=path.name, paths=(path,), label=label)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Request]:
    folder = tmp_path_factory.mktemp("cases")
    return [_request(_nifti(folder / f"case-{number}.nii", number)) for number in range(8)]


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Request:
    """Give a folder whose many files take far longer to look at than any test waits."""
    folder = tmp_path_factory.mktemp("endless")
    first = folder / "0"
    first.write_bytes(bytes(64))
    for number in range(1, 40_000):
        os.link(first, folder / str(number))
    return Request(key="endless", paths=(folder,))


@pytest.fixture(scope="module")
def running() -> Iterator[Loader]:
    """Give a loader that several tests use one after the other, which saves the start of its process."""
    with Loader(64 * CASE_BYTES) as one:
        yield one


@pytest.fixture
def loader() -> Iterator[Loader]:
    with Loader(64 * CASE_BYTES) as one:
        yield one


def _until(loader: Loader, reached: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < end, "it never came to that"
        loader.poll()
        time.sleep(0.001)


def _until_idle(loader: Loader) -> None:
    _until(loader, lambda: loader.loading is None)


def _came(loader: Loader, request: Request) -> Loaded:
    loaded = loader.wait(request.key, PATIENCE_S)
    assert isinstance(loaded, Loaded), loaded
    return loaded


def _is_right(loaded: Loaded, request: Request) -> bool:
    (path,) = request.paths
    return bool(np.array_equal(loaded.images[0].voxels[..., 0], np.asanyarray(nibabel.load(path).dataobj)))


def _is_gone(process: int) -> bool:
    """Say whether a process has ended; one that only waits to be buried has."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


# What comes is what is there.


def _write_kinds(folder: Path) -> list[Path]:
    random_number = np.random.default_rng(7)
    colours = random_number.integers(0, 255, (9, 8, 7, 3), np.uint8)
    red_green_blue = colours.view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    reals = random_number.normal(size=(9, 8, 7, 5)).astype(np.float32)
    reals[0, 0, 0] = np.nan
    made = {
        "whole.nii": random_number.integers(0, 4000, (9, 8, 7), np.int16),
        "packed.nii.gz": random_number.integers(0, 255, (9, 8, 7), np.uint8),
        "many.nii": reals,
        "colour.nii": red_green_blue,
    }
    for name, voxels in made.items():
        nibabel.Nifti1Image(voxels, np.diag([1.0, -2.0, 3.0, 1.0])).to_filename(folder / name)
    return [folder / name for name in made]


def _is_same(one: Image, other: Image) -> bool:
    for field in dataclasses.fields(Image):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if isinstance(left, np.ndarray):
            if left.dtype != right.dtype or not np.array_equal(left, right, equal_nan=left.dtype.kind == "f"):
                return False
        elif left != right:
            return False
    return True


def test_each_kind_of_image_comes_as_it_opens_without_a_loader(running: Loader, tmp_path: Path) -> None:
    requests = [_request(path, label="series 3") for path in _write_kinds(tmp_path)]
    running.want(requests)
    for request in requests:
        loaded = _came(running, request)
        direct = open_images(request.paths[0], label="series 3")
        assert len(loaded.images) == len(loaded.statistics) == len(direct)
        for image, statistics, expected in zip(loaded.images, loaded.statistics, direct, strict=True):
            assert _is_same(image, expected)
            assert np.array_equal(statistics.counts, measure(expected).counts)
            assert statistics.robust == measure(expected).robust


def test_a_real_series_comes_whole(running: Loader, scanner_data: Path) -> None:
    folder = min(path.parent for path in scanner_data.glob("dcm_qa_nih/**/*.dcm"))
    request = Request(key="real", paths=(folder,))
    running.want([request])
    loaded = _came(running, request)
    direct = open_images(folder)
    assert len(loaded.images) == len(direct) > 0
    assert all(_is_same(*pair) for pair in zip(loaded.images, direct, strict=True))


def test_voxels_that_came_cannot_be_written(running: Loader, cases: list[Request]) -> None:
    running.want(cases[:1])
    voxels = _came(running, cases[0]).images[0].voxels
    with pytest.raises(ValueError, match="read-only"):
        voxels[0, 0, 0, 0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        voxels.flags.writeable = True


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_layout_survives_the_way(data: st.DataObject) -> None:
    images = []
    for _ in range(data.draw(st.integers(1, 3))):
        shape = data.draw(st.lists(st.integers(1, 5), min_size=4, max_size=4))
        is_colour = data.draw(st.booleans())
        kind = np.uint8 if is_colour else data.draw(st.sampled_from([np.uint8, np.int16, np.uint16, np.float32, ">i2"]))
        axes = len(shape) + is_colour
        order = data.draw(st.permutations(range(axes)))
        sizes = [*shape, 3][:axes]
        lying = np.arange(np.prod(sizes)).reshape([sizes[axis] for axis in order]).astype(kind)
        voxels = lying.transpose(np.argsort(order))
        flips = tuple(slice(None, None, data.draw(st.sampled_from([1, -1]))) for _ in range(4))
        images.append(Image(voxels=voxels[flips], affine=np.eye(4), label=str(len(images)), slope=2.5, padding=-1.0))
    block, parts, size = prefetch._laid_out(images, "scanward-test")
    try:
        mapped = prefetch._mapped(block, parts, size)
    finally:
        os.close(block)
    assert [_is_same(*pair) for pair in zip(mapped, images, strict=True)] == [True] * len(images)
    for ours, theirs in zip(mapped, images, strict=True):
        long = [axis for axis in range(ours.voxels.ndim) if ours.voxels.shape[axis] > 1]
        ranks = [sorted(long, key=lambda axis, of=of: abs(of.voxels.strides[axis])) for of in (ours, theirs)]
        assert ranks[0] == ranks[1], "an axis that was quick to walk along no longer is"


# Order, news, change.


def test_cases_come_in_the_order_wanted_and_are_told_once(loader: Loader, cases: list[Request]) -> None:
    order = [cases[3], cases[0], cases[5]]
    loader.want(order)
    news: list[str] = []
    end = time.monotonic() + PATIENCE_S
    while len(news) < 3 and time.monotonic() < end:
        news += loader.poll()
        time.sleep(0.001)
    assert news == [request.key for request in order]
    assert loader.poll() == ()
    assert all(_is_right(_came(loader, request), request) for request in order)


def test_a_kept_case_is_there_at_once_and_is_not_opened_again(loader: Loader, cases: list[Request]) -> None:
    loader.want(cases[:2])
    first = _came(loader, cases[0])
    _until_idle(loader)
    loader.want([cases[1], cases[0]])
    assert isinstance(loader.get(cases[1].key), Loaded)
    _until_idle(loader)
    assert loader.get(cases[0].key) is first


def test_a_file_that_changed_is_opened_again(loader: Loader, tmp_path: Path) -> None:
    request = _request(_nifti(tmp_path / "case.nii", 1))
    loader.want([request])
    before = _came(loader, request)
    kept = np.array(before.images[0].voxels)
    loader.poll()
    _nifti(tmp_path / "other.nii", 2).replace(request.paths[0])  # as large as before
    loader.want([request])
    after = _came(loader, request)
    assert _is_right(after, request)
    assert loader.poll() == (request.key,)
    assert np.array_equal(before.images[0].voxels, kept), "what was on screen changed under the reader's eyes"


def test_a_changed_companion_counts_as_a_change(running: Loader, tmp_path: Path) -> None:
    header, other = tmp_path / "case.hdr", tmp_path / "other.hdr"
    for seed, path in enumerate((header, other)):
        voxels = np.random.default_rng(seed).integers(0, 999, (4, 5, 6), np.int16)
        nibabel.Spm99AnalyzeImage(voxels, np.eye(4)).to_filename(path)
    running.want([_request(header)])
    before = _came(running, _request(header))
    other.with_suffix(".img").replace(header.with_suffix(".img"))
    running.want([_request(header)])
    after = _came(running, _request(header))
    assert not np.array_equal(before.images[0].voxels, after.images[0].voxels)


def test_the_same_key_with_other_files_is_another_case(running: Loader, cases: list[Request]) -> None:
    running.want([cases[0]])
    _came(running, cases[0])
    moved = Request(key=cases[0].key, paths=cases[1].paths)
    running.want([moved])
    assert _is_right(_came(running, moved), cases[1])


def test_what_cannot_be_opened_says_why_until_it_is_mended(
    running: Loader, cases: list[Request], tmp_path: Path
) -> None:
    path = tmp_path / "case.nii"
    path.write_bytes(b"no image at all" * 40)
    running.want([_request(path), _request(tmp_path / "missing.nii"), cases[0]])
    for name in ("case.nii", "missing.nii"):
        fault = running.wait(name, PATIENCE_S)
        assert isinstance(fault, Fault)
        assert "fault of scanward" not in fault.text
        assert fault.text.endswith(".")
    assert _is_right(_came(running, cases[0]), cases[0])
    _nifti(path, 4)
    running.want([_request(path)])
    assert _is_right(_came(running, _request(path)), _request(path))


# Memory.


def test_no_more_is_kept_than_fits_and_the_most_urgent_is(cases: list[Request]) -> None:
    with Loader(3 * CASE_BYTES + CASE_BYTES // 2) as loader:
        loader.want(cases)
        _came(loader, cases[2])
        _until_idle(loader)
        kept = [request.key for request in cases if loader.get(request.key) is not None]
        assert kept == [request.key for request in cases[:3]]
        assert loader.used_bytes == 3 * CASE_BYTES


def test_a_held_case_stays_and_a_released_one_goes_first(cases: list[Request]) -> None:
    with Loader(3 * CASE_BYTES) as loader:
        loader.want(cases[:2])
        _came(loader, cases[1])
        loader.hold(cases[0].key)
        loader.hold(cases[0].key)
        loader.want(cases[2:6])
        _came(loader, cases[3])
        _until_idle(loader)
        assert {request.key for request in cases if loader.get(request.key)} == {cases[n].key for n in (0, 2, 3)}
        loader.release(cases[0].key)
        loader.want(cases[2:6])
        _until_idle(loader)
        assert loader.get(cases[0].key) is not None, "it is held once more"
        loader.release(cases[0].key)
        loader.want(cases[2:6])
        _came(loader, cases[4])
        _until_idle(loader)
        assert {request.key for request in cases if loader.get(request.key)} == {cases[n].key for n in (2, 3, 4)}


def test_a_case_larger_than_the_memory_is_shown_and_stays_valid_when_let_go(cases: list[Request]) -> None:
    with Loader(CASE_BYTES // 2) as loader:
        loader.want(cases[:3])
        large = _came(loader, cases[0])
        _until_idle(loader)
        assert loader.used_bytes == CASE_BYTES
        loader.want(cases[1:3])
        _came(loader, cases[1])
        assert loader.get(cases[0].key) is None
        assert _is_right(large, cases[0])
    assert _is_right(large, cases[0])


def test_a_case_without_room_is_not_waited_for(cases: list[Request]) -> None:
    with Loader(CASE_BYTES) as loader:
        loader.want(cases[:2])
        assert loader.wait(cases[1].key, PATIENCE_S) is None
        assert _is_right(_came(loader, cases[0]), cases[0])
        assert loader.wait("unheard of", PATIENCE_S) is None


def _resident_bytes(process: int) -> int:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_hundreds_of_cases_leave_no_memory_and_no_descriptor_behind(cases: list[Request]) -> None:
    with Loader(2 * CASE_BYTES) as loader:
        for number in range(40):
            loader.want([cases[number % 8]])
            _came(loader, cases[number % 8])
        worker = loader.process_id
        assert worker is not None
        resident = _resident_bytes(worker), _resident_bytes(os.getpid())
        descriptors = len(os.listdir("/proc/self/fd")), len(os.listdir(f"/proc/{worker}/fd"))
        for number in range(150):
            loader.want([cases[number % 8]])
            _came(loader, cases[number % 8])
        assert loader.process_id == worker
        grown = _resident_bytes(worker) - resident[0], _resident_bytes(os.getpid()) - resident[1]
        # 150 cases are 150 MiB: one lost in forty would be seen.
        assert max(grown) < 4 * CASE_BYTES
        assert len(os.listdir("/proc/self/fd")) == descriptors[0]
        # The process may just have had the block of the last case open, or may have it now.
        assert abs(len(os.listdir(f"/proc/{worker}/fd")) - descriptors[1]) <= 1


# Cancelling.


def test_a_load_that_is_not_wanted_any_more_is_left_in_the_middle(
    loader: Loader, cases: list[Request], endless: Request
) -> None:
    loader.want([cases[0], endless])
    _came(loader, cases[0])
    worker = loader.process_id
    for case in cases[1:5]:
        loader.want([endless])
        _until(loader, lambda: loader.loading == endless.key)
        loader.want([case])
        assert _is_right(_came(loader, case), case)
        assert loader.get(endless.key) is None
    assert loader.process_id == worker, "the process was replaced, where stopping it in its work was enough"


def test_a_more_urgent_case_overtakes_the_one_in_work(loader: Loader, cases: list[Request], endless: Request) -> None:
    loader.want([endless])
    _until(loader, lambda: loader.loading == endless.key)
    loader.want([cases[6], endless])
    assert _is_right(_came(loader, cases[6]), cases[6])
    _until(loader, lambda: loader.loading == endless.key)


def test_stepping_on_does_not_disturb_what_is_being_fetched(
    loader: Loader, cases: list[Request], endless: Request
) -> None:
    loader.want([*cases[:2], endless])
    _came(loader, cases[1])
    _until(loader, lambda: loader.loading == endless.key)
    loader.want([cases[1], endless, cases[2]])
    for _ in range(50):
        loader.poll()
        time.sleep(0.001)
    assert loader.loading == endless.key
    assert loader._job is not None
    assert loader._job.cancelled is None


def test_a_process_that_hangs_is_replaced(loader: Loader, cases: list[Request], endless: Request) -> None:
    loader.want([endless])
    _until(loader, lambda: loader.loading == endless.key)
    hanging = loader.process_id
    assert hanging is not None
    os.kill(hanging, signal.SIGSTOP)
    loader.want([cases[0]])
    assert _is_right(_came(loader, cases[0]), cases[0])
    assert loader.process_id != hanging
    assert _is_gone(hanging)


def test_a_message_larger_than_the_socket_holds_gets_through(loader: Loader, cases: list[Request]) -> None:
    loader.want(cases[:1])
    _came(loader, cases[0])
    worker = loader.process_id
    assert worker is not None
    os.kill(worker, signal.SIGSTOP)
    many = Request(key="many", paths=tuple(Path("/nowhere") / uuid.uuid4().hex for _ in range(40_000)))
    loader.want([many])  # would hang here if it waited for the process
    assert loader.poll() == (cases[0].key,)
    assert loader._outbox
    os.kill(worker, signal.SIGCONT)
    while loader.get("many") is None:  # as a window does it: only when there is something to read
        assert select.select([loader], [], [], PATIENCE_S)[0], "the window is not told that it can send the rest"
        loader.poll()
    assert isinstance(loader.get("many"), Fault)
    assert loader.process_id == worker


# Ends.


def test_a_killed_process_is_replaced_without_anybody_noticing(loader: Loader, cases: list[Request]) -> None:
    watched = loader.fileno()
    for case in cases[:3]:
        loader.want([case])
        _came(loader, case)
        killed = loader.process_id
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        _until(loader, lambda killed=killed: loader.process_id != killed)
        assert loader.fileno() == watched
    loader.want(cases[:4])
    assert all(_is_right(_came(loader, request), request) for request in cases[:4])


def test_a_case_that_ends_the_process_twice_is_given_up_and_the_rest_comes(
    loader: Loader, cases: list[Request], endless: Request
) -> None:
    loader.want([endless, cases[0]])
    for _ in range(2):
        _until(loader, lambda: loader.loading == endless.key)
        process = loader.process_id
        assert process is not None
        os.kill(process, signal.SIGKILL)
        _until(loader, lambda process=process: loader.process_id != process)
    fault = loader.wait(endless.key, PATIENCE_S)
    assert isinstance(fault, Fault)
    assert fault.kind == "Ended"
    assert _is_right(_came(loader, cases[0]), cases[0])
    loader.want([cases[0]])
    assert loader.get(endless.key) is None
    loader.want([endless])  # come back to, it gets another chance
    _until(loader, lambda: loader.loading == endless.key)


def test_a_process_that_cannot_start_is_told_and_tried_again_later(
    cases: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", "/bin/false")
        loader = Loader(CASE_BYTES)
        loader.want([cases[0]])
        fault = loader.wait(cases[0].key, PATIENCE_S)
        assert isinstance(fault, Fault)
        assert "cannot be started" in fault.text
        patched.setattr(sys, "executable", "/does/not/exist")
        loader.want([cases[1]])
        assert isinstance(loader.get(cases[1].key), Fault)
    with loader:
        loader.want([cases[2]])
        assert _is_right(_came(loader, cases[2]), cases[2])
        loader.want([cases[0]])
        assert _is_right(_came(loader, cases[0]), cases[0])


def test_control_c_on_the_terminal_is_not_the_process_s_business(loader: Loader, cases: list[Request]) -> None:
    loader.want(cases[:1])
    _came(loader, cases[0])
    worker = loader.process_id
    assert worker is not None
    for case in cases[1:6]:
        loader.want([case])
        os.kill(worker, signal.SIGINT)
        assert _is_right(_came(loader, case), case)
    assert loader.process_id == worker


def test_closed_it_is_gone(cases: list[Request], endless: Request) -> None:
    loader = Loader(8 * CASE_BYTES)
    loader.want([cases[0], endless])
    loaded = _came(loader, cases[0])
    worker = loader.process_id
    assert worker is not None
    loader.close()
    loader.close()
    assert _is_gone(worker)
    loader.want(cases)
    assert loader.get(cases[0].key) is None
    assert loader.poll() == ()
    assert loader.wait(cases[1].key, 1) is None
    assert _is_right(loaded, cases[0])


PARENT = """
import os, sys, time
from pathlib import Path
from viewer.prefetch import Loader, Request
loader = Loader(1 << 30)
requests = [Request(key=path, paths=(Path(path),)) for path in sys.argv[1:]]
loader.want(requests)
for request in requests[:-1]:
    assert loader.wait(request.key, 60) is not None
while loader.loading != requests[-1].key:
    loader.poll()
print(loader.process_id, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_window_leaves_no_process_and_no_memory_behind(
    end: signal.Signals, cases: list[Request], endless: Request, tmp_path: Path
) -> None:
    shared = Path("/dev/shm")
    before = set(shared.iterdir()) if shared.is_dir() else set()
    names = [str(request.paths[0]) for request in (*cases[:4], endless)]
    root = Path(prefetch.__file__).parents[1]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(root)}
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, *names], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert not _is_gone(worker)
        parent.send_signal(end)
    limit = time.monotonic() + PATIENCE_S
    while not _is_gone(worker):
        assert time.monotonic() < limit, "the loading process outlived the window"
        time.sleep(0.01)
    assert not [one for one in set(shared.iterdir()) - before if "scanward" in one.name]
    assert list(tmp_path.iterdir()) == []


# All of it at random.


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 40))])
def test_whatever_happens_the_right_case_comes_and_memory_stays_within_its_bounds(
    seed: int, cases: list[Request], endless: Request
) -> None:
    chance = random.Random(seed)
    capacity = 4 * CASE_BYTES
    with Loader(capacity) as loader:
        wanted: list[Request] = []
        held: list[str] = []
        for _ in range(80):
            act = chance.choices(["want", "jump", "hold", "release", "wait", "kill", "poll"], [6, 2, 2, 2, 4, 0.3, 6])[
                0
            ]
            if act == "want":
                wanted = chance.sample(cases, chance.randint(0, 5))
            elif act == "jump":
                wanted = [*chance.sample(cases, 2), endless]
            elif act == "hold" and len(held) < 2:
                held.append(chance.choice(cases).key)
                loader.hold(held[-1])
            elif act == "release" and held:
                loader.release(held.pop(chance.randrange(len(held))))
            elif act == "wait" and wanted:
                assert _is_right(_came(loader, wanted[0]), wanted[0])
            elif act == "kill" and loader.process_id is not None and loader.loading in (None, endless.key):
                os.kill(loader.process_id, signal.SIGKILL)
            if act in ("want", "jump"):
                loader.want(wanted)
            loader.poll()
            needed = {*held, *(request.key for request in wanted[:1])}
            assert loader.used_bytes <= max(capacity, CASE_BYTES * len(needed))
            for request in cases:
                loaded = loader.get(request.key)
                assert loaded is None or _is_right(loaded, request)
