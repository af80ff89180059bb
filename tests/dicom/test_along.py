"""A file that is walked along another yields what it yields when it is walked alone, whatever differs between them."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from tasks.dicom import along
from tasks.dicom.along import Walker
from tasks.dicom.elements import Element, WalkError, walk
from tasks.dicom.syntax import read_start

MOST = 100_000
FOLDERS = (
    "dcm_qa_stc/In/Siemens/B17/6_ax_asc_35sl",
    "dcm_qa_stc/In/GE/ProtocolDataBlock/mr_0004",
    "dcm_qa_stc/In/UIH/R002/12_dti_tra_dir16_PA_rot",
    "dcm_qa_philips/In/Vanderbilt_2018/601_WIP_dti_ax",
    "dcm_qa_enh/In/Siemens/XA10",
)


def said(act: Callable[[], list[Element]]) -> object:
    try:
        return act()
    except WalkError as fault:
        return str(fault)


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 10))])
def test_changed_bytes_are_walked_as_if_alone(folder: str, seed: int, scanner_data: Path) -> None:
    chance = random.Random(f"{folder} {seed}")
    paths = sorted(path for path in (scanner_data / folder).rglob("*") if path.is_file())
    content = next(data for data in map(Path.read_bytes, paths) if data[128:132] == b"DICM")
    start = read_start(content)
    elements = list(walk(content, start.offset, explicit=start.explicit))
    header = elements[-1].value
    heads = [place for one in elements for place in range(one.start, one.value)]
    values = [one.value for one in elements if one.vr and one.end > one.value] + list(range(start.offset, header, 97))
    walker = Walker()
    for number in range(60):
        changed = bytearray(content)
        for _ in range(chance.choice((0, 1, 1, 2, 5))):
            place = chance.choice(heads if number % 3 == 0 else values)
            changed[place] = chance.choice((changed[place] ^ 1, 0, 0xFF, chance.randrange(256)))
        data = bytes(changed)
        expected = said(lambda data=data: list(islice(walk(data, start.offset, explicit=start.explicit), MOST)))
        walker._pause = 0
        assert (
            said(lambda data=data: walker.elements(data, start.offset, explicit=start.explicit, most=MOST)) == expected
        )


def test_files_of_a_series_are_walked_once(scanner_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason for all this: values that differ do not make another walk, private creators do."""
    path = min((scanner_data / FOLDERS[0]).glob("*"))
    content = path.read_bytes()
    start = read_start(content)
    walks = []
    monkeypatch.setattr(along, "walk", lambda *words, **more: walks.append(1) or walk(*words, **more))
    walker = Walker()

    def look(data: bytes) -> list[Element]:
        return walker.elements(data, start.offset, explicit=start.explicit, most=MOST)

    first = look(content)
    uid = next(one for one in first if one.tag == 0x00080018)
    other = content[: uid.end - 2] + b"99" + content[uid.end :]
    assert look(other) is first
    assert len(walks) == 1
    creator = next(one for one in first if one.tag & 0x1FF00 == 0x10000 and one.tag & 0xFF >= 0x10)
    stranger = content[: creator.value] + b"X" + content[creator.value + 1 :]
    assert look(stranger) is not first
    assert len(walks) == 2
    # What was not alike is not tried again at once.
    assert look(stranger) == list(walk(stranger, start.offset, explicit=start.explicit))
    assert len(walks) == 3
