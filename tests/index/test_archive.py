"""Whatever is packed in a dump comes out byte for byte, or is told with a reason; and nothing unpacks without end."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import itertools
import lzma
import os
import random
import shutil
import stat
import struct
import subprocess
import tarfile
import tracemalloc
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom.data
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.errors import DiskFullError
from tasks.files import TEMPORARY_PREFIX
from tasks.index.archive import ArchiveLimits, Member, settle_store, unpack_container
from tasks.index.header import read_header
from tasks.index.row import REJECT_REASONS, Container
from tests import strategies
from tests.builders.disks import tiny_disk, unprivileged

KEY = "ab12cd34"


def image(number: int, size: int = 700) -> bytes:
    """Make something that begins like a DICOM file and that no compression makes small."""
    return bytes(128) + b"DICM" + random.Random(number).randbytes(size)


@dataclass(frozen=True, kw_only=True)
class Unpacked:
    """What became of a container: reasons and contents by path, and the list itself."""

    members: list[Member]
    reasons: dict[bytes, str]
    contents: dict[bytes, bytes]


class Bench:
    """A dump and a store."""

    def __init__(self, folder: Path) -> None:
        self.dump = folder / "dump"
        self.store = folder / "identified" / "unpacked"
        self.dump.mkdir()

    def unpack_only(
        self, name: str, content: bytes, *, kind: str | None = None, key: str = KEY, **limits: int
    ) -> list[Member]:
        path = os.fsencode(name)
        (self.dump / name).write_bytes(content)
        if kind is None:
            found = read_header(os.fsencode(self.dump), path)
            assert isinstance(found, Container), found
            kind = found.kind
        members = unpack_container(
            os.fsencode(self.dump),
            Container(path=path, kind=kind),
            store=self.store,
            key=key,
            limits=ArchiveLimits(**limits),
            settle=False,
        )
        assert (self.dump / name).read_bytes() == content
        return members

    def unpack(self, name: str, content: bytes, **words: Any) -> Unpacked:
        return self.look(self.unpack_only(name, content, **words))

    def look(self, members: list[Member]) -> Unpacked:
        """Read what was stored; whatever else happened, the store holds that and nothing more."""
        stored = [member.stored for member in members if member.stored]
        assert sorted(stored) == self.stored()
        for member in members:
            assert bool(member.stored) != bool(member.reason)
            assert not member.reason or member.reason in REJECT_REASONS
            if member.stored:
                assert member.size == (self.store / member.stored).stat().st_size
        counts = Counter(member.path for member in members)
        assert max(counts.values()) == 1, counts.most_common(2)
        return Unpacked(
            members=members,
            reasons={member.path: member.reason for member in members if member.reason},
            contents={member.path: (self.store / member.stored).read_bytes() for member in members if member.stored},
        )

    def stored(self) -> list[str]:
        return sorted(str(path.relative_to(self.store)) for path in self.store.rglob("*") if path.is_file())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Bench]:
    """Give a function that makes a new dump and store, for each example of a property."""
    return lambda: Bench(tmp_path_factory.mktemp("bench"))


def zipped(members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, (2017, 7, 14, 2, 40, 0)), content, method)
    return stream.getvalue()


def streamed_zip(members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Make a zip archive as a program does that writes into a pipe: sizes stand behind the data."""

    class Pipe(io.RawIOBase):
        written = b""

        def writable(self) -> bool:
            return True

        def write(self, piece: bytes) -> int:
            self.written += piece
            return len(piece)

    stream = Pipe()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.written


def tarred(members: Mapping[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def gzipped(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


ARCHIVES: dict[str, Callable[[Mapping[str, bytes]], bytes]] = {
    "stored.zip": lambda members: zipped(members, zipfile.ZIP_STORED),
    "deflated.zip": zipped,
    "bzip2.zip": lambda members: zipped(members, zipfile.ZIP_BZIP2),
    "lzma.zip": lambda members: zipped(members, zipfile.ZIP_LZMA),
    "streamed.zip": streamed_zip,
    "ustar.tar": lambda members: tarred(members, tarfile.USTAR_FORMAT),
    "gnu.tar": lambda members: tarred(members, tarfile.GNU_FORMAT),
    "pax.tar": tarred,
    "x.tar.gz": lambda members: gzipped(tarred(members)),
    "x.tar.bz2": lambda members: bz2.compress(tarred(members)),
    "x.tar.xz": lambda members: lzma.compress(tarred(members), preset=1),
    "x.zip.gz": lambda members: gzipped(zipped(members)),
}
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "x.gz": gzipped,
    "x.bz2": bz2.compress,
    "x.xz": lambda content: lzma.compress(content, preset=1),
}


# What is whole comes out whole.


@pytest.fixture(scope="module")
def real_files(scanner_data: Path) -> dict[str, bytes]:
    """Real DICOM files by name: a sample of pydicom's, with those without preamble, and of the scanners'."""
    own = Path(pydicom.data.__file__).parent / "test_files"
    paths = [path for path in sorted(own.glob("*.dcm")) if path.stat().st_size < 300_000]
    paths = random.Random(1).sample(paths, 20) + [own / name for name in ("no_meta.dcm", "ExplVR_BigEnd.dcm")]
    scanned = [path for path in sorted(scanner_data.rglob("*.dcm")) if path.stat().st_size < 2_000_000]
    paths += random.Random(2).sample(scanned, 10)
    files = {f"{number}/{path.name}": path.read_bytes() for number, path in enumerate(paths)}
    return {
        name: content
        for name, content in files.items()
        if content[128:132] == b"DICM" or content[:2] in (b"\x08\x00", b"\x02\x00", b"\x00\x08")
    }


@pytest.mark.parametrize("name", ARCHIVES)
def test_real_files_come_out_of_archives_byte_for_byte(name: str, bench: Bench, real_files: dict[str, bytes]) -> None:
    assert len(real_files) > 25
    found = bench.unpack(name, ARCHIVES[name](real_files))
    assert found.reasons == {}
    assert found.contents == {f"{name}!/{inner}".encode(): content for inner, content in real_files.items()}
    assert [member.path for member in found.members] == [f"{name}!/{inner}".encode() for inner in real_files]


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_real_files_come_out_of_compressed_files(name: str, bench: Bench, real_files: dict[str, bytes]) -> None:
    for number, content in enumerate(real_files.values()):
        found = bench.unpack(f"{number}{name}", COMPRESSIONS[name](content), key=f"{number:08d}")
        assert found.contents == {f"{number}{name}".encode(): content}
        shutil.rmtree(bench.store)


def test_files_larger_than_a_piece(bench: Bench) -> None:
    """More than is ever in memory at once, nested as well: this archive in it goes by way of the disk."""
    large = {"a": image(1, 3 << 20), "b": image(2, (1 << 20) - 132), "c": image(3, (2 << 20) - 131)}
    for number, (name, pack) in enumerate(ARCHIVES.items()):
        if name in ("bzip2.zip", "lzma.zip", "x.tar.bz2", "x.tar.xz"):
            continue  # slow to make, and the same from here on
        found = bench.unpack(f"{number}.tar", tarred({name: pack(large)}), key=f"{number:08d}")
        assert found.contents == {f"{number}.tar!/{name}!/{inner}".encode(): large[inner] for inner in large}
        shutil.rmtree(bench.store)


@pytest.mark.parametrize("form", ["ustar", "gnu", "posix"])
def test_what_gnu_tar_writes(
    form: str, bench: Bench, tmp_path: Path, real_files: dict[str, bytes], program: Callable[[str], str]
) -> None:
    """Long names, sparse files, links, owners: as a program other than Python's writes them."""
    folder = tmp_path / "packed"
    long = "" if form == "ustar" else "/".join(["a folder whose name is long"] * 12) + "/"
    names = {f"{long}{Path(name).name} é": content for name, content in list(real_files.items())[:8]}
    for name, content in names.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    with (folder / "sparse").open("wb") as stream:
        stream.write(image(1))
        stream.truncate(1_500_000)
        stream.seek(1_000_000)
        stream.write(b"in the middle of nothing")
    names["sparse"] = (folder / "sparse").read_bytes()
    (folder / "hard link").hardlink_to(folder / "sparse")
    (folder / "soft link").symlink_to("/etc/passwd")
    os.mkfifo(folder / "pipe")
    subprocess.run(
        [
            program("tar"),
            f"--format={form}",
            "--sort=name",
            *(["--sparse"] if long else []),
            "-czf",
            tmp_path / "x",
            ".",
        ],
        check=True,
        cwd=folder,
    )
    found = bench.unpack("x", (tmp_path / "x").read_bytes())
    # Which of two hard links is the file is for tar to choose.
    linked = {b"x!/./hard link", b"x!/./sparse"}
    (other,) = linked & found.reasons.keys()
    assert found.reasons == {b"x!/./soft link": "symlink", b"x!/./pipe": "special-file", other: "symlink"}
    (whole,) = linked - {other}
    expected = {f"x!/./{name}".encode(): content for name, content in names.items() if name != "sparse"}
    assert found.contents == expected | {whole: names["sparse"]}


def test_zips_of_other_shapes(bench: Bench) -> None:
    """Sizes in the fields of zip64, a comment that looks like an end, bytes behind the end."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("large.dcm", "w", force_zip64=True) as member:
            member.write(image(1))
        archive.comment = b"PK\5\6" + bytes(40) + b" nothing"
    plain = stream.getvalue()
    assert bench.unpack("a.zip", plain).contents == {b"a.zip!/large.dcm": image(1)}
    found = bench.unpack("c.zip", zipped({"x": image(2)}) + b"\r\nappended by a mail gateway")
    assert (found.reasons, found.contents) == ({}, {b"c.zip!/x": image(2)})


@pytest.mark.long
def test_zip_of_more_files_than_16_bits_count(bench: Bench) -> None:
    content = zipped({f"{number}": b"no image" for number in range(70_000)} | {"x.dcm": image(1)}, 0)
    found = bench.unpack("a.zip", content)
    assert len(found.members) == 70_001
    assert found.contents == {b"a.zip!/x.dcm": image(1)}


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("streamed", [False, True])
def test_zip_without_its_directory(streamed: bool, method: int, bench: Bench) -> None:
    """A transfer that broke off: each file that came whole is taken, also where sizes stand behind the data."""
    members = {"1.dcm": image(1), "empty": b"", "folder/": b"", "2.dcm": image(2, 200_000), "text": b"text"}
    content = (streamed_zip if streamed else zipped)(members, method)
    found = bench.unpack("a.zip", content[: content.index(b"PK\1\2")])
    assert found.contents == {b"a.zip!/1.dcm": image(1), b"a.zip!/2.dcm": image(2, 200_000)}
    assert found.reasons == {
        b"a.zip!/empty": "empty",
        b"a.zip!/text": "not-dicom",
        b"a.zip": "archive-damaged",
    }


def test_first_part_of_a_split_zip(bench: Bench) -> None:
    """The marker of several parts stands in front, and the directory lies in another file."""
    content = zipped({"1.dcm": image(1), "2.dcm": image(2)})
    cut = content.index(b"PK\3\4", 4) + 200
    found = bench.unpack("a.z01", b"PK\7\x08" + content[:cut], kind="zip")
    assert found.contents == {b"a.z01!/1.dcm": image(1)}
    assert found.reasons == {b"a.z01!/2.dcm": "archive-damaged", b"a.z01": "archive-damaged"}


def test_streams_that_follow_each_other(bench: Bench) -> None:
    for number, (name, pack) in enumerate(COMPRESSIONS.items()):
        content = image(number)
        found = bench.unpack(name, pack(content[:300]) + pack(b"") + pack(content[300:]) + bytes(512))
        assert found.contents == {name.encode(): content}
        found = bench.unpack(name, pack(content) + b"not a stream")
        assert found.contents == {name.encode(): content}


def test_tar_archives_that_follow_each_other(bench: Bench) -> None:
    one, two = tarred({"1": image(1)}), tarred({"2": image(2), "1": image(3)})
    expected = {b"x!/1": image(1), b"x!/2": image(2), b"x!/1#2": image(3)}
    for content in (one + two, gzipped(one) + gzipped(two), gzipped(one + two)):
        found = bench.unpack("x", content)
        assert (found.reasons, found.contents) == ({}, expected)


# What is not taken, and why.


def test_reasons_of_members(bench: Bench) -> None:
    members = {
        "folder/": b"",
        "folder/image": image(1),
        "no preamble": b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100" + bytes(50),
        "empty": b"",
        "text": b"not an image",
        "__MACOSX/._image": b"\0\5\x16\7" + bytes(100),
        "report.docx": zipped({"[Content_Types].xml": b"<Types/>", "word/document.xml": image(2)}),
        "library.jar": zipped({"META-INF/MANIFEST.MF": b"", "x.dcm": image(2)}),
    }
    reasons = {
        "empty": "empty",
        "text": "not-dicom",
        "__MACOSX/._image": "apple-double",
        "report.docx": "not-dicom",
        "library.jar": "not-dicom",
    }
    for name in ("x.zip", "x.tgz"):
        found = bench.unpack(name, zipped(members) if name == "x.zip" else gzipped(tarred(members)))
        assert found.reasons == {f"{name}!/{member}".encode(): reason for member, reason in reasons.items()}
        assert set(found.contents) == {f"{name}!/folder/image".encode(), f"{name}!/no preamble".encode()}
        sizes = {member.path: member.size for member in found.members}
        assert all(
            sizes[f"{name}!/{member}".encode()] == len(members[member]) for member in members if member[-1] != "/"
        )


def test_compressed_files_that_hold_no_image(bench: Bench) -> None:
    """They keep their own path, whatever they are."""
    contents = {"empty": b"", "not-dicom": b"x" * 100_000, "apple-double": b"\0\5\x16\7" + bytes(100)}
    for (name, pack), (reason, content) in itertools.product(COMPRESSIONS.items(), contents.items()):
        found = bench.unpack(name, pack(content))
        assert found.members == [Member(path=name.encode(), reason=reason, size=len(content))]
    found = bench.unpack("report.docx.gz", gzipped(zipped({"mimetype": b"application/x", "1.dcm": image(1)})))
    assert found.reasons == {b"report.docx.gz": "not-dicom"}


@pytest.mark.parametrize("content", [zipped({}), zipped({"folder/": b""}), gzipped(tarred({"folder/": b""}))])
def test_archives_of_nothing(content: bytes, bench: Bench) -> None:
    assert bench.unpack("x", content).reasons == {b"x": "empty"}


def test_documents_are_not_opened(bench: Bench) -> None:
    found = bench.unpack("x.odt", zipped({"mimetype": b"application/x", "1.dcm": image(1)}), kind="zip")
    assert found.reasons == {b"x.odt": "not-dicom"}


def test_links_and_devices(bench: Bench) -> None:
    stream = io.BytesIO()
    kinds = {
        "soft link": tarfile.SYMTYPE,
        "hard link": tarfile.LNKTYPE,
        "pipe": tarfile.FIFOTYPE,
        "disk": tarfile.BLKTYPE,
        "terminal": tarfile.CHRTYPE,
        "folder": tarfile.DIRTYPE,
    }
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, kind in kinds.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
    expected = {"soft link": "symlink", "hard link": "symlink"}
    expected |= dict.fromkeys(("pipe", "disk", "terminal"), "special-file")
    found = bench.unpack("x", stream.getvalue())
    assert found.reasons == {f"x!/{name}".encode(): reason for name, reason in expected.items()}

    stream = io.BytesIO()
    modes = {"link": stat.S_IFLNK, "pipe": stat.S_IFIFO, "folder": stat.S_IFDIR, "file": stat.S_IFREG}
    with zipfile.ZipFile(stream, "w") as archive:
        for name, mode in modes.items():
            info = zipfile.ZipInfo(name)
            info.create_system = 3
            info.external_attr = (mode | 0o644) << 16
            archive.writestr(info, b"" if name == "folder" else b"/etc/passwd")
    found = bench.unpack("x", stream.getvalue())
    assert found.reasons == {b"x!/link": "symlink", b"x!/pipe": "special-file", b"x!/file": "not-dicom"}


def test_encrypted_members(bench: Bench) -> None:
    content = bytearray(zipped({"1.dcm": image(1), "2.dcm": image(2)}, 0))
    content[6] |= 1
    content[content.index(b"PK\1\2") + 8] |= 1
    found = bench.unpack("x", bytes(content))
    assert found.reasons == {b"x!/1.dcm": "archive-encrypted"}
    assert found.contents == {b"x!/2.dcm": image(2)}


def test_depth(bench: Bench) -> None:
    content = image(0)
    name, levels = "x.zip", [b"x.zip"]
    for level in range(4):
        content = zipped({f"{level}": content, f"{level}.dcm": image(level + 1)})
    for level in (3, 2, 1):
        levels.append(levels[-1] + f"!/{level}".encode())
    for depth in range(5):
        found = bench.unpack(name, content, depth=depth)
        refused = {levels[depth]: "archive-nested"} if depth < 4 else {}
        assert found.reasons == refused
        assert len(found.contents) == (depth if depth < 4 else 5)


def test_compressed_files_in_archives(bench: Bench) -> None:
    """An archive that is compressed is one archive; two compressions around each other are two."""
    once = gzipped(image(1))
    found = bench.unpack(
        "a", zipped({"x.gz": once, "y.tgz": gzipped(tarred({"z": image(2)})), "w.gz.gz": gzipped(once)})
    )
    assert found.contents == {b"a!/x.gz": image(1), b"a!/y.tgz!/z": image(2)}
    assert found.reasons == {b"a!/w.gz.gz": "archive-nested"}
    found = bench.unpack("a", gzipped(once))
    assert found.contents == {b"a": image(1)}
    found = bench.unpack("a", gzipped(gzipped(once)))
    assert found.reasons == {b"a": "archive-nested"}


def test_file_that_is_gone_or_locked(bench: Bench) -> None:
    def look(path: bytes) -> list[Member]:
        container = Container(path=path, kind="gzip")
        dump = os.fsencode(bench.dump)
        return unpack_container(dump, container, store=bench.store, key=KEY, limits=ArchiveLimits())

    assert look(b"x.gz") == [Member(path=b"x.gz", reason="vanished")]
    (bench.dump / "link").symlink_to("elsewhere")
    assert look(b"link") == [Member(path=b"link", reason="unreadable")]
    # A folder opens, and then cannot be read.
    (bench.dump / "folder").mkdir()
    assert look(b"folder") == [Member(path=b"folder", reason="unreadable")]
    with unprivileged() as folder:
        (folder / "x.gz").write_bytes(gzipped(image(1)))
        (folder / "x.gz").chmod(0)
        container = Container(path=b"x.gz", kind="gzip")
        members = unpack_container(
            os.fsencode(folder), container, store=folder / "store", key=KEY, limits=ArchiveLimits()
        )
        assert members == [Member(path=b"x.gz", reason="unreadable")]


# Names are only names.


def test_names_that_want_out(bench: Bench, tmp_path: Path) -> None:
    names = ["../../out", "/tmp/out", "a/../../out", "C:\\out", "-rf", ".", "..", "x" * 300, "~/out", "new\nline"]
    members = {name: image(number) for number, name in enumerate(names)}
    before = sorted(path for path in tmp_path.rglob("*") if "unpacked" not in str(path))
    for name, pack in (("a.tar", tarred), ("a.zip", zipped)):
        found = bench.unpack(name, pack(members))
        assert found.contents == {f"{name}!/{inner}".encode(): content for inner, content in members.items()}
        (bench.dump / name).unlink()
    after = [path for path in sorted(tmp_path.rglob("*")) if "unpacked" not in str(path)]
    assert [path for path in after if path not in (bench.store, bench.store.parent)] == before


def raw_zip(entries: Sequence[tuple[bytes, int, bytes]]) -> bytes:
    """Make a zip archive of names as bytes, with any flags."""
    locals_, central = b"", b""
    for name, flags, content in entries:
        fields = struct.pack("<5H3L2H", 20, flags, 0, 0, 33, zlib.crc32(content), *[len(content)] * 2, len(name), 0)
        central += b"PK\1\2" + struct.pack("<H", 20) + fields + struct.pack("<3H2L", 0, 0, 0, 0, len(locals_)) + name
        locals_ += b"PK\3\4" + fields + name + content
    count = [len(entries)] * 2
    return locals_ + central + b"PK\5\6" + struct.pack("<4H2LH", 0, 0, *count, len(central), len(locals_), 0)


@strategies.FEWER
@given(st.lists(st.tuples(strategies.file_names() | st.binary(min_size=1, max_size=8), st.sampled_from([0, 0x800]))))
@example([(b"a", 0), (b"a", 0), (b"a#2", 0), (b"a", 0x800)])
@example([(b"a#2", 0), (b"a", 0), (b"a", 0)])
@example([(b"nul\0in it", 0), (b"nul\\0in it", 0)])
@example([(b"\xff\xfe no utf-8", 0x800), (b"\x81 cp437", 0)])
def test_any_name_is_kept_and_told_apart(fresh: Callable[[], Bench], names: list[tuple[bytes, int]]) -> None:
    """Whatever bytes, whatever they are said to be: they stay, and each member has a path of its own."""
    content = raw_zip([(name, flags, image(number)) for number, (name, flags) in enumerate(names)])
    found = fresh().unpack("x", content, kind="zip")
    if found.reasons != {b"x": "empty"}:
        assert found.reasons == {}
    assert list(found.contents.values()) == [image(number) for number in range(len(names))]
    seen: set[bytes] = set()
    for (name, _), path in zip(names, found.contents, strict=True):
        plain = b"x!/" + name.replace(b"\0", b"\\0")
        assert path == plain if plain not in seen else path.startswith(plain + b"#")
        seen.add(path)


@strategies.FEWER
@given(st.lists(strategies.file_names(), unique=True, max_size=4), st.sampled_from(["pax", "gnu"]))
def test_any_name_in_a_tar(fresh: Callable[[], Bench], names: list[bytes], form: str) -> None:
    members = {name.decode("utf-8", "surrogateescape"): image(number) for number, name in enumerate(names)}
    stream = io.BytesIO()
    kind = {"pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT}[form]
    with tarfile.open(fileobj=stream, mode="w", format=kind, encoding="utf-8", errors="surrogateescape") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    found = fresh().unpack("x", stream.getvalue(), kind="tar")
    assert found.contents == {b"x!/" + name: image(number) for number, name in enumerate(names)}


# What is damaged.


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


# What has no end.


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
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
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


# The store.


def test_store_is_private(bench: Bench) -> None:
    bench.unpack("x", zipped({"1": image(1), "2": tarred({"3": image(2, 2 << 20)})}))
    assert bench.stored() == [f"ab/{KEY}-000000", f"ab/{KEY}-000001"]
    for path in (bench.store, bench.store / "ab"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for name in bench.stored():
        assert stat.S_IMODE((bench.store / name).stat().st_mode) == 0o600


def test_strangers_are_never_written(bench: Bench) -> None:
    bench.unpack("x", zipped({"x": b"text", "y": bytes(3 << 20)}))
    assert not bench.store.exists()


def test_doing_it_again_mends_what_a_crash_left(bench: Bench) -> None:
    content = zipped({f"{number}": image(number) for number in range(5)})
    first = bench.unpack("x", content)
    below = bench.store / "ab"
    (below / f"{KEY}-000001").unlink()
    (below / f"{KEY}-000002").write_bytes(b"half")
    (below / f"{KEY}-000017").write_bytes(b"of an attempt with other limits")
    dead = subprocess.Popen(["true"])
    dead.wait()
    (below / f"{TEMPORARY_PREFIX}{dead.pid}-{KEY}-000003").write_bytes(b"never finished")
    assert bench.unpack("x", content) == first
    # What belongs to others stays.
    (below / "abother00-000000").write_bytes(b"of another")
    (below / f"{TEMPORARY_PREFIX}{os.getppid()}-abother00-000001").write_bytes(b"being written")
    members = unpack_container(
        os.fsencode(bench.dump),
        Container(path=b"x", kind="zip"),
        store=bench.store,
        key=KEY,
        limits=ArchiveLimits(members=1),
    )
    assert members == [Member(path=b"x", reason="archive-limit")]
    assert sorted(os.listdir(below)) == [f"{TEMPORARY_PREFIX}{os.getppid()}-abother00-000001", "abother00-000000"]


def test_files_are_replaced_and_never_written_again(bench: Bench) -> None:
    """What was linked from the store into a tree keeps its content whatever happens to the store."""
    bench.unpack("x", gzipped(image(1)))
    linked = bench.dump / "linked"
    linked.hardlink_to(bench.store / "ab" / f"{KEY}-000000")
    bench.unpack("x", gzipped(image(2)))
    assert linked.read_bytes() == image(1)


def test_settling(bench: Bench) -> None:
    """Nobody can cut the power here; but it goes through every file and folder, and does not mind what is gone."""
    contents = {}
    members: list[Member] = []
    for number in range(40):
        found = bench.unpack_only(f"{number}.gz", gzipped(image(number)), key=f"{number:08d}")
        contents[found[0].stored] = image(number)
        members += found
    (bench.store / members[0].stored).unlink()
    del contents[members[0].stored]
    members.append(Member(path=b"x", reason="not-dicom"))
    settle_store(bench.store, members)
    assert {name: (bench.store / name).read_bytes() for name in bench.stored()} == contents
    settle_store(bench.store.with_name("nowhere"), members[-1:])


def test_full_disk(tmp_path: Path) -> None:
    content = tarred({"1": image(1, 30_000), "nested": tarred({"2": image(2, 30_000)}), "3": image(3, 30_000)})
    (tmp_path / "x").write_bytes(content)
    large = {"large": tarred({"4": image(4, 2 << 20)})}
    (tmp_path / "y").write_bytes(tarred(large))

    def unpack(name: bytes, store: Path) -> list[Member]:
        container = Container(path=name, kind="tar")
        return unpack_container(os.fsencode(tmp_path), container, store=store, key=KEY, limits=ArchiveLimits())

    with tiny_disk(tmp_path / "disk", kilobytes=64) as disk:
        for name in (b"x", b"y"):
            with pytest.raises(DiskFullError):
                unpack(name, disk / "store")
            assert not [path for path in disk.rglob(f"{TEMPORARY_PREFIX}*") if path.is_file()]
        subprocess.run(["mount", "-o", "remount,size=8M", str(disk)], check=True)
        members = unpack(b"x", disk / "store")
        assert [(disk / "store" / member.stored).read_bytes() for member in members] == [
            image(number, 30_000) for number in (1, 2, 3)
        ]


# Any structure.


def dicom_contents() -> st.SearchStrategy[bytes]:
    return st.binary(max_size=60).map(lambda noise: bytes(128) + b"DICM" + noise)


@dataclass(frozen=True)
class Packed:
    """A container and what lies in it: a list, or one content."""

    kind: str
    inner: tuple[bytes | Packed, ...]

    def content(self) -> bytes:
        parts = [part.content() if isinstance(part, Packed) else part for part in self.inner]
        members = {f"{number}/name": part for number, part in enumerate(parts)}
        if self.kind in ARCHIVES:
            return ARCHIVES[self.kind](members)
        return COMPRESSIONS[self.kind](parts[0])

    def leaves(self) -> list[bytes]:
        return [leaf for part in self.inner for leaf in (part.leaves() if isinstance(part, Packed) else [part])]

    def depth(self) -> int:
        return 1 + max((part.depth() for part in self.inner if isinstance(part, Packed)), default=0)


FEW_KINDS = ("stored.zip", "deflated.zip", "streamed.zip", "gnu.tar", "pax.tar", "x.tar.gz", "x.tar.bz2", "x.zip.gz")


def containers(part: st.SearchStrategy[bytes | Packed]) -> st.SearchStrategy[Packed]:
    several = st.lists(part, min_size=1, max_size=4).map(tuple)
    return st.builds(Packed, st.sampled_from(FEW_KINDS), several) | st.builds(
        Packed, st.sampled_from(sorted(COMPRESSIONS)), st.tuples(part)
    )


@strategies.FEWER
@given(containers(st.recursive(dicom_contents(), containers, max_leaves=8)))
def test_any_structure_gives_each_content_back_once(fresh: Callable[[], Bench], packed: Packed) -> None:
    found = fresh().unpack("x", packed.content(), depth=packed.depth())
    assert found.reasons == {}
    expected = Counter(hashlib.sha256(leaf).digest() for leaf in packed.leaves())
    assert Counter(hashlib.sha256(content).digest() for content in found.contents.values()) == expected
    assert list(found.contents.values()) == packed.leaves()
