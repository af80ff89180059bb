"""Of a damaged archive comes out what is whole, the damage is told, and nothing is raised."""

from __future__ import annotations

import bz2
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import strategies
from tests.index.packing import ARCHIVES, COMPRESSIONS, Bench, gzipped, image, streamed_zip, tarred, zipped


def test_damaged_zip_members(bench: Bench) -> None:
    """One is damaged, the others are taken, and the archive is in the list."""
    members = {f"{number}.dcm": image(number, 3000) for number in range(1, 4)}
    for method in (0, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        content = bytearray(zipped(members, method))
        place = content.index(b"PK\3\4", 4) + 1500
        content[place] ^= 0x55
        found = bench.unpack("x", bytes(content))
        assert found.reasons == {b"x!/2.dcm": "archive-damaged", b"x": "archive-damaged"}
        assert found.contents == {b"x!/1.dcm": members["1.dcm"], b"x!/3.dcm": members["3.dcm"]}


def test_damage_before_the_first_bytes_are_known(bench: Bench) -> None:
    """A file whose prefix is damaged is no stranger but a damaged file."""
    content = zipped({"1.dcm": image(1)}, 0).replace(b"DICM", b"DICN")
    found = bench.unpack("x", content)
    assert found.reasons == {b"x!/1.dcm": "archive-damaged", b"x": "archive-damaged"}


@pytest.mark.parametrize(
    ("offset", "value"), [(8, 9), (8, 93), (0, 0x51)], ids=["deflate64", "zstandard", "signature of a local header"]
)
def test_zip_member_that_cannot_be_opened(offset: int, value: int, bench: Bench) -> None:
    content = bytearray(zipped({"1.dcm": image(1), "2.dcm": image(2)}))
    content[offset] = value
    if offset == 8:
        content[content.index(b"PK\1\2") + 10] = value
    found = bench.unpack("x", bytes(content), kind="zip")
    assert found.reasons == {b"x!/1.dcm": "archive-damaged", b"x": "archive-damaged"}
    assert found.contents == {b"x!/2.dcm": image(2)}


def test_damaged_zip_directory(bench: Bench) -> None:
    """Each byte of it in turn: what is taken is right, and what is not taken is told."""
    members = {"1.dcm": image(1, 50), "2.dcm": image(2, 50)}
    content = zipped(members)
    contents = set(members.values())
    for place in range(content.index(b"PK\1\2"), len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF if place % 2 else 0x01
        found = bench.unpack("x", bytes(damaged), kind="zip")
        assert set(found.contents.values()) <= contents
        assert len(found.contents) == 2 or found.reasons


def test_damaged_compressed_files(bench: Bench) -> None:
    for name, pack in COMPRESSIONS.items():
        whole = pack(image(1, 5000))
        middle = bytearray(whole)
        middle[len(whole) // 2] ^= 0x55
        tail = bytearray(whole)
        tail[-6] ^= 0x55
        for content in (whole[:-1], whole[:-20], whole[:12], whole[:2500], bytes(middle), bytes(tail)):
            assert bench.unpack(name, content).reasons == {name.encode(): "archive-damaged"}


def test_damaged_tar(bench: Bench) -> None:
    members = {f"{number}": image(number, 2000) for number in range(1, 4)}
    whole = tarred(members, tarfile.USTAR_FORMAT)
    second = whole.index(members["2"]) - 512
    third = whole.index(members["3"]) - 512
    broken = bytearray(whole)
    broken[second + 100] ^= 0xFF
    found = bench.unpack("x", bytes(broken))
    assert (found.reasons, set(found.contents)) == ({b"x": "archive-damaged"}, {b"x!/1"})
    # A sector of zeros looks like the end.
    found = bench.unpack("x", whole[:second] + bytes(512) + whole[second + 512 :])
    assert (found.reasons, set(found.contents)) == ({b"x": "archive-damaged"}, {b"x!/1"})
    found = bench.unpack("x", whole[:second] + bytes(third - second) + whole[third:])
    assert (found.reasons, set(found.contents)) == ({}, {b"x!/1", b"x!/3"})
    # Cut between two members, nothing is wrong but that there is no end.
    found = bench.unpack("x", whole[:third])
    assert (found.reasons, set(found.contents)) == ({b"x": "archive-damaged"}, {b"x!/1", b"x!/2"})
    found = bench.unpack("x", whole[:third] + bytes(1024))
    assert (found.reasons, set(found.contents)) == ({}, {b"x!/1", b"x!/2"})


@pytest.mark.parametrize("size", [2000, 200_000])
def test_damage_in_a_compressed_tar(size: int, bench: Bench) -> None:
    """What stands before the damage is taken, though the same block of the compressed data holds both."""
    members = {f"{number}": image(number, size) for number in range(1, 4)}
    whole = tarred(members)
    packer = zlib.compressobj(wbits=31)
    content = packer.compress(whole[: whole.index(members["3"]) + 100]) + packer.flush(zlib.Z_FULL_FLUSH)
    # No block of deflated data is of type 3 (RFC 1951 3.2.3).
    content += b"\x07" + image(4)
    found = bench.unpack("x", content)
    assert found.contents[b"x!/1"] == members["1"]
    assert found.contents[b"x!/2"] == members["2"]
    assert found.reasons[b"x"] == "archive-damaged"


def test_end_of_another_archive_is_not_taken_for_its_own(bench: Bench) -> None:
    """The end is cut off, and the archive that lies unpacked in it has one; or a second archive was appended."""
    inner = zipped({"1": image(1)})
    whole = zipped({"2": image(2), "inner.zip": inner}, 0)
    found = bench.unpack("x", whole[: whole.index(b"PK\1\2", whole.index(b"PK\5\6"))])
    assert set(found.contents) == {b"x!/2", b"x!/inner.zip!/1"}
    assert found.reasons == {b"x": "archive-damaged"}
    found = bench.unpack("x", zipped({"2": image(2)}) + inner)
    assert set(found.contents) == {b"x!/2"}
    assert found.reasons == {b"x": "archive-damaged"}


def test_damage_in_a_nested_archive_is_told_of_that_one(bench: Bench) -> None:
    inner = bytearray(zipped({"1": image(1), "2": image(2)}, 0))
    inner[300] ^= 1
    found = bench.unpack("x", tarred({"inner.zip": bytes(inner), "3": image(3)}))
    assert found.reasons == {b"x!/inner.zip!/1": "archive-damaged", b"x!/inner.zip": "archive-damaged"}
    assert set(found.contents) == {b"x!/inner.zip!/2", b"x!/3"}


CUT_MEMBERS = {"first": image(1, 1000), "text": b"text " * 50, "second": image(2, 30_000), "third": image(3, 400)}
CUT_TAR = tarred(CUT_MEMBERS, tarfile.USTAR_FORMAT)
CUT_ENDS = {name: CUT_TAR.index(content) + len(content) for name, content in CUT_MEMBERS.items()}


def whole_before(unpacked: int) -> dict[bytes, bytes]:
    """Return the images that end within so many bytes of the tar archive."""
    images = {name for name in CUT_MEMBERS if name != "text"}
    return {f"x!/{name}".encode(): CUT_MEMBERS[name] for name in images if CUT_ENDS[name] <= unpacked}


@strategies.FEWER
@given(st.data(), st.sampled_from(["", "gzip", "bzip2", "xz"]))
def test_tar_cut_anywhere(fresh: Callable[[], Bench], data: st.DataObject, kind: str) -> None:
    """Every image that came whole before the cut is taken, and the cut is told."""
    pack = {"": bytes, "gzip": gzipped, "bzip2": bz2.compress, "xz": lzma.compress}[kind]
    content = pack(CUT_TAR)
    cut = content[: data.draw(st.integers(1, len(content) - 1))]
    found = fresh().unpack("x", cut, kind=kind or "tar")
    reader = {"gzip": lambda: zlib.decompressobj(31), "bzip2": bz2.BZ2Decompressor, "xz": lzma.LZMADecompressor}
    available = reader[kind]().decompress(cut) if kind else cut
    assert found.contents == whole_before(len(available))
    if kind or len(available) < CUT_ENDS["third"]:
        assert found.reasons[b"x"] == "archive-damaged"


@strategies.FEWER
@given(st.data(), st.sampled_from([0, zipfile.ZIP_DEFLATED]), st.booleans())
def test_zip_cut_anywhere(fresh: Callable[[], Bench], data: st.DataObject, method: int, streamed: bool) -> None:
    content = (streamed_zip if streamed and method else zipped)(CUT_MEMBERS, method)
    place = data.draw(st.integers(0, len(content) - 1))
    found = fresh().unpack("x", content[:place], kind="zip")
    # The archive's local headers stand behind what precedes them; the last file ends at the directory.
    begins = [index for index in range(len(content)) if content.startswith((b"PK\3\4", b"PK\1\2"), index)]
    ends = dict(zip(CUT_MEMBERS, begins[1:], strict=False))
    expected = {f"x!/{name}".encode() for name, end in ends.items() if end <= place and name != "text"}
    assert set(found.contents) == expected
    assert all(CUT_MEMBERS[path[3:].decode()] == inner for path, inner in found.contents.items())
    if place < len(content) - 2:
        assert found.reasons[b"x"] == "archive-damaged"


@strategies.FEWER
@given(st.data(), st.sampled_from(sorted(ARCHIVES)))
def test_any_damage_is_survived(fresh: Callable[[], Bench], data: st.DataObject, name: str) -> None:
    """Nothing is raised, the outcome is the same each time, and checksums keep altered files out of zip archives."""
    content = bytearray(ARCHIVES[name](CUT_MEMBERS))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    kind = {"zip": "zip", "tar": "tar", "gz": "gzip", "bz2": "bzip2", "xz": "xz"}[name.rsplit(".", 1)[1]]
    bench = fresh()
    found = bench.unpack("x", bytes(content), kind=kind)
    assert bench.unpack("x", bytes(content), kind=kind) == found
    if kind == "zip":
        assert set(found.contents.values()) <= set(CUT_MEMBERS.values())


@strategies.FEWER
@given(st.binary(max_size=600), st.sampled_from(["zip", "tar", "gzip", "bzip2", "xz"]), st.booleans())
def test_any_bytes_are_survived(fresh: Callable[[], Bench], content: bytes, kind: str, signed: bool) -> None:
    signatures = {"zip": b"PK\3\4", "tar": b"", "gzip": b"\x1f\x8b\x08", "bzip2": b"BZh9", "xz": b"\xfd7zXZ\0"}
    found = fresh().unpack("x", signatures[kind] * signed + content, kind=kind)
    assert found.members


@strategies.FEWER
@given(st.binary(min_size=345, max_size=345), st.sampled_from(b"0123456xgLKSDVM\0"), st.integers(0, 3))
def test_any_tar_header_is_survived(fresh: Callable[[], Bench], noise: bytes, kind: int, blocks: int) -> None:
    """With a checksum that fits, so that all of it is believed."""
    header = bytearray(noise[:148] + b" " * 8 + bytes([kind]) + noise[157:257] + b"ustar\x0000" + noise[:247])
    header = header[:512].ljust(512, b"\0")
    header[124:136] = b"%011o\0" % (blocks * 512) if noise[0] & 1 else b"\xff" + noise[1:12]
    header[148:156] = b"%06o\0 " % sum(header)
    found = fresh().unpack("x", bytes(header) + (noise * 5)[: blocks * 512].ljust(1024, b"1"), kind="tar")
    assert found.members
