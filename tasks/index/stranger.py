"""Say what a file is that is no DICOM file, by its first bytes."""

from __future__ import annotations

from tasks.index.row import Container, Reject


def tell_stranger(head: bytes, path: bytes) -> Reject | Container:
    """Tell archives, which are opened, from what is not taken.

    Parameters
    ----------
    head
        The first bytes of a file, at least 262 if it has so many.
    path
        The file's own, for the answer.
    """
    if head.startswith((b"\0\5\x16\7", b"\0\5\x16\0")):
        # AppleDouble and AppleSingle (RFC 1740).
        return Reject(path=path, reason="apple-double")
    kind = ""
    if head.startswith((b"PK\3\4", b"PK\5\6")) and not _is_document(head):
        kind = "zip"
    elif head.startswith(b"\x1f\x8b"):
        kind = "gzip"
    elif head.startswith(b"BZh") and head[3:4].isdigit():
        kind = "bzip2"
    elif head.startswith(b"\xfd7zXZ\0"):
        kind = "xz"
    elif head[257:262] == b"ustar":
        kind = "tar"
    return Container(path=path, kind=kind) if kind else Reject(path=path, reason="not-dicom")


def _is_document(head: bytes) -> bool:
    """Tell whether a zip is an office document or a Java archive, by the name of its first member.

    Source: PKWARE APPNOTE section 4.3.7 (local file header), ECMA-376 part 2 (open packaging), OpenDocument 1.3 part 2
    section 3.3, the JAR file specification.
    """
    length = int.from_bytes(head[26:28], "little")
    name = head[30 : 30 + length]
    return name in (b"[Content_Types].xml", b"mimetype") or name.startswith((b"META-INF/", b"_rels/"))
