"""Nothing unpacks without end, in memory, on the disk or in the number of files."""

from __future__ import annotations

import bz2
import io
import lzma
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress

import pytest

from tasks.index.archive import Member
from tests.index.packing import Bench, Unpacked, gzipped, image, tarred, zipped


def limited(found: Unpacked, name: bytes = b"x") -> bool:
    return found.members == [Member(path=name, reason="archive-limit")]


def test_limits_are_met_and_not_one_byte_less(bench: Bench) -> None:
    members = {"1": image(1, 868), "2": image(2, 868), "3": b"x"}
    for content in (zipped(members), tarred(members), gzipped(tarred(members))):
        assert not limited(bench.unpack("x", content, members=3, member_bytes=1000))
        assert limited(bench.unpack("x", content, members=2, member_bytes=1000))
        assert limited(bench.unpack("x", content, members=3, member_bytes=999))
    assert not limited(bench.unpack("x", zipped(members), total_bytes=2001))
    assert limited(bench.unpack("x", zipped(members), total_bytes=2000))
    assert not limited(bench.unpack("x", gzipped(image(1, 868)), member_bytes=1000, total_bytes=1000))
    assert limited(bench.unpack("x", gzipped(image(1, 868)), member_bytes=999))
    assert limited(bench.unpack("x", gzipped(image(1, 868)), total_bytes=999))


def test_limits_count_what_lies_deeper(bench: Bench) -> None:
    inner = zipped({"1": image(1), "2": image(2)}, 0)
    content = tarred({"a": inner, "b": inner, "3": image(3)})
    assert len(bench.unpack("x", content, members=7).contents) == 5
    assert limited(bench.unpack("x", content, members=6))


@pytest.mark.parametrize("kind", ["zip", "gz", "tgz", "bz2", "xz", "zip of bz2", "zip of lzma"])
def test_ratio(kind: str, bench: Bench) -> None:
    """Images that become very small are harmless while they are few; when they are not, nothing is left of them."""
    black = bytes(128) + b"DICM" + bytes(2 << 20)
    content = {
        "zip": lambda: zipped({"first": image(1), "x": black}),
        "gz": lambda: gzipped(black),
        "tgz": lambda: gzipped(tarred({"first": image(1), "x": black})),
        "bz2": lambda: bz2.compress(black),
        "xz": lambda: lzma.compress(black, preset=0),
        "zip of bz2": lambda: zipped({"first": image(1), "x": black}, zipfile.ZIP_BZIP2),
        "zip of lzma": lambda: zipped({"first": image(1), "x": black}, zipfile.ZIP_LZMA),
    }[kind]()
    assert black in bench.unpack("x", content, ratio=100).contents.values()
    assert limited(bench.unpack("x", content, ratio=100, member_bytes=3 << 20))
    assert bench.stored() == []


def test_sizes_that_lie(bench: Bench) -> None:
    """A file that is larger than it says is damaged; the lie is not unpacked any further."""
    content = zipped({"x": image(1) + bytes(3 << 20), "y": image(2)})
    lying = content.replace(struct.pack("<L", len(image(1)) + (3 << 20)), struct.pack("<L", 100))
    found = bench.unpack("x", lying, member_bytes=1000)
    assert found.reasons == {b"x!/x": "archive-damaged", b"x": "archive-damaged"}
    assert found.contents == {b"x!/y": image(2)}
    # And one that says it is larger than allowed is not begun at all.
    huge = zipped({"y": image(2)}).replace(struct.pack("<L", len(image(2))), struct.pack("<L", 1 << 31))
    assert limited(bench.unpack("x", huge, member_bytes=1 << 30))


def overlapping(copies: int) -> bytes:
    """Make a zip archive whose entries are all the same bytes of the file."""
    content = zipped({"x": bytes(128) + b"DICM" + bytes(100_000)})
    begin = content.index(b"PK\1\2")
    end = content.index(b"PK\5\6")
    directory = content[begin:end] * copies
    return (
        content[:begin] + directory + b"PK\5\6" + struct.pack("<4H2LH", 0, 0, copies, copies, len(directory), begin, 0)
    )


def quoting(files: int, kernel: bytes) -> bytes:
    """Make a zip archive in which each file is the next one's header and content, quoted in a block that stores.

    All of it is valid: this is how a few kilobytes unpack to as many files as they have room for, each of full size.
    """
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(kernel) + packer.flush()
    content, local, entries = kernel, b"", []
    for number in reversed(range(files)):
        if local:
            content = local + content
            packed = b"\0" + struct.pack("<2H", len(local), len(local) ^ 0xFFFF) + local + packed
        name = b"%06d" % number
        fields = struct.pack("<5H3L2H", 20, 0, 8, 0, 33, zlib.crc32(content), len(packed), len(content), len(name), 0)
        local = b"PK\3\4" + fields + name
        entries.insert(0, (fields, name, len(packed)))
    whole = local + packed
    directory = b""
    for fields, name, length in entries:
        offset = len(whole) - length - 30 - len(name)
        directory += b"PK\1\2" + struct.pack("<H", 20) + fields + struct.pack("<3H2L", 0, 0, 0, 0, offset) + name
    end = struct.pack("<4H2LH", 0, 0, files, files, len(directory), len(whole), 0)
    return whole + directory + b"PK\5\6" + end


def test_overlapping_entries(bench: Bench) -> None:
    content = overlapping(500)
    assert limited(bench.unpack("x", content, member_bytes=1 << 20))
    assert limited(bench.unpack("x", content, total_bytes=40 << 20, ratio=1 << 20))
    # It takes no more than the limits to hold it, and few of them are no bomb.
    assert len(bench.unpack("x", overlapping(5)).contents) == 5


def test_entries_that_quote_each_other(bench: Bench) -> None:
    content = quoting(100, bytes(200_000))
    # Some releases of Python refuse to read it, as we do.
    with zipfile.ZipFile(io.BytesIO(content)) as archive, suppress(zipfile.BadZipFile):
        assert len(archive.read("000000")) > 200_000
    assert limited(bench.unpack("x", content, member_bytes=1 << 20))
    assert limited(bench.unpack("x", content, total_bytes=8 << 20, depth=5))


def test_archives_in_archives_without_end(bench: Bench) -> None:
    """Like 42.zip: each of sixteen holds sixteen more, and all of them are the same few bytes."""
    content = zipped({"x.dcm": bytes(128) + b"DICM" + bytes(1 << 20)})
    for _ in range(5):
        content = zipped({f"{number:02d}": content for number in range(16)})
    assert len(content) < 30_000
    assert limited(bench.unpack("x", content, depth=6, member_bytes=8 << 20))
    assert limited(bench.unpack("x", content, depth=6, total_bytes=8 << 20))
    assert limited(bench.unpack("x", content, depth=6, members=100))
    # At the depth that is the default, nothing is unpacked that could be a bomb.
    found = bench.unpack("x", content)
    assert set(found.reasons.values()) == {"archive-nested"}
    assert len(found.reasons) == 256


def test_gzip_that_holds_itself(bench: Bench) -> None:
    content = image(1)
    for _ in range(300):
        content = gzipped(content)
    assert bench.unpack("x", content).reasons == {b"x": "archive-nested"}


def peak_of(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["zip of bz2", "zip of lzma", "zip", "gz", "bz2", "xz", "tgz"])
def test_memory_is_bounded(kind: str, bench: Bench) -> None:
    """A decoder that is asked for all it has gives 30 MiB out of a few kilobytes."""
    black = bytes(30 << 20)
    content = {
        "zip of bz2": lambda: zipped({"x": black}, zipfile.ZIP_BZIP2),
        "zip of lzma": lambda: zipped({"x": black}, zipfile.ZIP_LZMA),
        "zip": lambda: zipped({"x": black}),
        "gz": lambda: gzipped(black),
        "bz2": lambda: bz2.compress(black),
        "xz": lambda: lzma.compress(black, preset=0),
        "tgz": lambda: gzipped(tarred({"x": black})),
    }[kind]()
    (bench.dump / "x").write_bytes(content)
    assert peak_of(lambda: bench.unpack("x", content, ratio=10**6)) < 16 << 20


def test_decoder_that_asks_for_too_much(bench: Bench) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 12}]
    small = lzma.compress(image(1), filters=filters)
    # The dictionary's size is one byte of the block's header (xz file format 5.3.1), which has a checksum of its own.
    block = bytearray(small[12 : 12 + (small[12] + 1) * 4])
    place = bytes(block).index(b"\x21\x01") + 2
    block[place] = 36
    block[-4:] = struct.pack("<L", zlib.crc32(bytes(block[:-4])))
    assert limited(bench.unpack("x", small[:12] + bytes(block) + small[12 + len(block) :]))


def tar_header(name: bytes, size: int, kind: bytes) -> bytes:
    entry = tarfile.TarInfo(name.decode())
    entry.size, entry.type = size, kind
    return entry.tobuf(tarfile.USTAR_FORMAT)


def test_tar_headers_without_end(bench: Bench) -> None:
    """Records and long names of any length, chains of them, and maps that lead nowhere."""
    first = tarred({"1": image(1)}).rstrip(b"\0")
    first += bytes(-len(first) % 512)
    image_2 = tar_header(b"2", len(image(2)), tarfile.REGTYPE) + image(2).ljust(1024, b"\0")
    bombs = {
        "long record": tar_header(b"x", 60 << 20, tarfile.XHDTYPE) + bytes(60 << 20),
        "long name": tar_header(b"x", 60 << 20, tarfile.GNUTYPE_LONGNAME) + b"a" * (60 << 20),
        "chain": (tar_header(b"x", 512, tarfile.GNUTYPE_LONGNAME) + b"a".ljust(512, b"\0")) * 5000,
        "chain of records": (tar_header(b"x", 512, tarfile.XHDTYPE) + b"8 a=bcd\n".ljust(512, b"\0")) * 5000,
    }
    for name, bomb in bombs.items():
        content = gzipped(first + bomb + image_2 + bytes(1024))
        (bench.dump / "x").write_bytes(content)
        assert peak_of(lambda content=content: bench.unpack("x", content, ratio=10**6)) < 12 << 20, name
        found = bench.unpack("x", content, ratio=10**6)
        assert (found.reasons, set(found.contents)) == ({b"x": "archive-damaged"}, {b"x!/1"}), name


def sparse_header(size: int, blocks: Sequence[tuple[int, int]], stored: int) -> bytes:
    """Make the header of a sparse file as old GNU tar does (tar.h, struct oldgnu_header)."""
    header = bytearray(tar_header(b"sparse", stored, tarfile.GNUTYPE_SPARSE))
    header[257:265] = b"ustar  \0"
    header[345:] = bytes(512 - 345)
    for number, (begin, length) in enumerate(blocks):
        header[386 + 24 * number : 410 + 24 * number] = b"%011o\0%011o\0" % (begin, length)
    header[483:495] = b"%011o\0" % size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def test_sparse_files(bench: Bench) -> None:
    content = image(1, 512 - 132)
    whole = sparse_header(5000, [(0, 512), (5000, 0)], 512) + content + bytes(1024)
    assert bench.unpack("x", whole).contents == {b"x!/sparse": content.ljust(5000, b"\0")}
    # Holes cost nothing to pack.
    holes = sparse_header(7 << 30, [(0, 512), (7 << 30, 0)], 512) + content + bytes(1024)
    assert limited(bench.unpack("x", holes))
    holes = sparse_header(60 << 20, [(0, 512), (60 << 20, 0)], 512) + content + bytes(1024)
    assert limited(bench.unpack("x", holes, total_bytes=50 << 20))
    assert limited(bench.unpack("x", holes, member_bytes=100 << 20))
    # Maps that go backwards or beyond the end.
    for blocks in ([(1024, 256), (0, 256)], [(0, 512), (256, 512)], [(0, 512), (9000, 512)]):
        broken = sparse_header(5000, blocks, 512) + content + bytes(1024)
        assert bench.unpack("x", broken).reasons == {b"x": "archive-damaged"}
