"""Whatever is packed in a dump comes out byte for byte, or is told with a reason."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import random
import shutil
import stat
import struct
import subprocess
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom.data
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.index.archive import ArchiveLimits, Member, unpack_container
from tasks.index.row import Container
from tests import strategies
from tests.builders.disks import unprivileged
from tests.index.packing import ARCHIVES, COMPRESSIONS, KEY, Bench, gzipped, image, streamed_zip, tarred, zipped

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
