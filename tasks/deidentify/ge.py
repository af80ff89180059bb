"""Clean the two blobs in which GE scanners hide who was scanned and when, and keep what the scan was.

Both are undocumented; their layouts are as seen in files of several scanner generations and as converters read them.
The protocol data block (0025,xx1B) holds the series description, the exam number and the time; the raw data header
(0043,xx2A) holds date, time, coil and site.
"""

from __future__ import annotations

import functools
import re
import struct
import zlib
from collections.abc import Iterator

LARGEST_PROTOCOL = 4 << 20
"""Bytes of unpacked protocol text; real ones have about two thousand."""

GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
"""Deflate, no name, no comment, no time, system unknown (RFC 1952 section 2.3)."""

_GZIP = 31
"""The window bits by which zlib expects a gzip header and checks the checksum behind the data."""

_LARGEST_STORED = 0xFFFF

_LINE = re.compile(r'((?:set )?([A-Z][A-Z0-9_]*) ")([^"]*)("[ \t\r]*)')

# Seven digits before the point at most: no date in a row has as few.
_NUMBER = r"[-+]?(?:\d{1,7}(?:\.\d{0,7})?|\.\d{1,7})"
_NUMBERS = re.compile(rf"(?:[RLAPSI]?{_NUMBER}(?:[ ;,]+{_NUMBER})*[ ;,]*)?")

NUMBER_KEYS = re.compile(
    "ACQORDER|AUTO(?:COIL|SCIC|SUBOPTIONS|TRGTYPE|TRIGWIN|VOICE)|BPMMODE|BWRT|DELACQ|DELACQNOAV|DRIVERAMP|DRIVERFREQ"
    "|DUMACQ|ELOC[1-9]|FLIPANG2?|FOV|FOVCNT[1-9]|GRIP_[A-Z]+[0-9]*(?:_[AB])?|GRXLOCSAVE|GRXOPT|HOS|INITSTATE|INRANGETR"
    "|MASKPAUSE|MASKPHASE|MATRIX[XY]|MBACCEL|MEGDIR|MEGFREQ|MPHPRESERVEMODE|MULTI(?:SYN)?BVALUE|MULTINEXVALUE"
    "|NAVPSCPAUSE|NECHO|NEX|NOSLC|NUMACCELFACTOR|NUMACQS|NUM(?:SYN)?BVALUE|NUMDIFFDIRS|NUMSHOTS|NUMT2IMAGES"
    "|ONETOUCHREG|PAUSEDELMASKACQ|PHASEASSET|PHASEDELAYS[0-9]+|PHASEFOV|PRESETDELAY|PSCSHIMTG|PSDTRIG|REOPT"
    "|SAVEORIGINAL|SEPSERIES|SL3PLANE[1-3]?|SLICEASSET|SLICEORDER|SLOC[1-9]|SLPERLOC|SLTHICK|SPC|SPCPERPLANE[1-3]"
    "|TAG_SPACE|TBLDELTA|TE2?|TEMPORALPHASES|THREEDGW|TI|TOTALNOSTATION|TR|TRACTIVE|TRICKSIMG|TRREST|USERCV[0-9]{1,2}"
    "|USERCV_MASK2?|VIEWORDER"
)
"""The keys whose values are numbers. dcm2niix reads SLICEORDER, VIEWORDER, MBACCEL, NOSLC, DELACQ, DELACQNOAV,
PHASEDELAYS, and of the next ones IOPT and PSEQ."""

TERM_KEYS = re.compile(
    "AUTOSHIM|CONTAM|CONTRAST|DELACQ|ENTRY|EXCITATIONMODE|FILTCHOICE|GRADMODE|IEC_ACCEPT|IMODE|IOPT|PHASECORR|PLANE"
    "|POSITION|PSEQ|RFDRIVEMODE|SWAPPF|TAG_TYPE|TE2?|TR"
)
"""The keys whose values are lists of the scanner's own terms."""

_TERM_TEXT = (
    # position and geometry
    "supine prone right left decubitus head feet first axial sagittal coronal oblique 3-plane r/l a/p s/i l/r p/a i/s "
    "unswap swap 2d 3d 4d volume mode whole zoom body "
    # switches and choices
    "yes no on off auto none min max minimum maximum full quadrature single dual selective nonselective "
    # pulse sequences
    "gradient echo spin fast fse frfse xl ssfse fse-xl frfse-xl spgr fspgr gre fgre fiesta fiesta-c inversion recovery "
    "flair t1 t2 t1flair t2flair tof pc vascular cine cube bravo lava flex epi spiral probe probe-p single-shot shot "
    "localizer plane asl pcasl diffusion dti dwi propeller merge cosmic swan silenz memp vemp ir se mr echoplanar "
    # imaging options
    "fmri mph mphvar sqp seq asset arc fc fcs fcf fc_slice fc_freq edr irp irprep gat gated cg resp rtr rg np npw nop "
    "spf sql t2prep t2 prep trf tailored rf zip2 zip4 zip512 zip1024 z2 z4 z512 z1024 vb bsp diff ss ext mt pomp de "
    "hyperband hypercube hypersense hb navigator nav bb bsat flow comp cal ideal sat fat water multi-phase"
)
TERMS = frozenset(_TERM_TEXT.split())
"""The words of those terms, in small letters. What is not among them may be a name."""

_TERM_SEPARATORS = re.compile(r"[ ,]+")

_FIRST_HEADER_BYTES = 916
"""Bytes of a raw data header up to the last field that is kept."""

_HEADER_OFFSET = 24
_READABLE_VERSIONS = (5.0, 40.0)
_SHIFTED_FROM = 25.002


@functools.lru_cache(maxsize=64)
def clean_protocol_block(value: bytes) -> bytes | None:
    """Keep the keys of a GE protocol data block (0025,xx1B) that describe the scan, and drop all else.

    The value is a length of 4 bytes, little endian, followed by that many bytes of gzip and by padding. The text inside
    has one key and its quoted value a line. Kept lines stay as they are and in their order; the others are left out.
    The output is packed without compression, because only that gives the same bytes with every release of zlib.

    Parameters
    ----------
    value
        The value of the element as it stands in the file.

    Returns
    -------
    bytes or None
        The new value, of even length; None where the block cannot be read, such as the XML of later scanners, or where
        nothing in it may stay: the element is then to be left out of the export.
    """
    text = _unpack(value)
    if text is None:
        return None
    lines = text.split("\n")
    kept = list(_kept_lines([found for found in map(_LINE.fullmatch, lines) if found is not None]))
    if not kept:
        return None
    # Readers look for a line break before a key: the first line must not become the key they look for.
    head = "" if kept[0] == lines[0] else "\n"
    cleaned = head + "".join(line + "\n" for line in kept)
    block = _pack(cleaned)
    if block is None or _unpack(block) != cleaned:
        return None
    return block


def clean_raw_data_header(value: bytes) -> bytes | None:
    """Keep the five numbers of a GE raw data header (0043,xx2A) that tell the phase encoding, and zero all else.

    These are the offset of the header inside the value (byte 24), its version, the flag that says whether the sequence
    is echo planar, the phase encoding polarity and the direction of the phase encoding views, each of two bytes but the
    version of four. All lengths and offsets stay as they were.

    Parameters
    ----------
    value
        The value of the element as it stands in the file.

    Returns
    -------
    bytes or None
        The new value, as long as the old one; None where it is no such header, and is then to be left out.
    """
    if len(value) < _FIRST_HEADER_BYTES:
        return None
    (offset,) = struct.unpack_from("<H", value, _HEADER_OFFSET)
    if len(value) < offset + _FIRST_HEADER_BYTES:
        return None
    (version,) = struct.unpack_from("<f", value, offset)
    lowest, highest = _READABLE_VERSIONS
    if not lowest <= version <= highest:
        return None
    if version >= _SHIFTED_FROM:
        words = (offset + 0x7C, offset + 0x86, offset + 0x354)
    else:
        words = (offset + 0x30, offset + 0x3A, offset + 0x394)
    cleaned = bytearray(len(value))
    for start, size in ((_HEADER_OFFSET, 2), (offset, 4), *((word, 2) for word in words)):
        cleaned[start : start + size] = value[start : start + size]
    return bytes(cleaned)


def _unpack(value: bytes) -> str | None:
    """Return the text of a block, or None where it is none or has more than `LARGEST_PROTOCOL` bytes."""
    if len(value) < 4:
        return None
    (length,) = struct.unpack_from("<L", value)
    if length > len(value) - 4:
        return None
    unpacker = zlib.decompressobj(_GZIP)
    try:
        text = unpacker.decompress(value[4 : 4 + length], LARGEST_PROTOCOL + 1)
    except zlib.error:
        return None
    # What stands behind the stream is not looked at, because nothing of the packed block is copied.
    if not unpacker.eof or len(text) > LARGEST_PROTOCOL:
        return None
    return text.decode("latin-1")


def _pack(text: str) -> bytes | None:
    """Return a block that holds the text in one stored piece (RFC 1951 section 3.2.4), or None if it is too long."""
    content = text.encode("latin-1")
    if len(content) > _LARGEST_STORED:
        return None
    stored = struct.pack("<BHH", 1, len(content), len(content) ^ 0xFFFF) + content
    packed = GZIP_HEADER + stored + struct.pack("<LL", zlib.crc32(content), len(content))
    return struct.pack("<L", len(packed)) + packed + bytes(len(packed) & 1)


def _kept_lines(found: list[re.Match[str]]) -> Iterator[str]:
    for line in found:
        before, key, value, after = line.groups()
        if NUMBER_KEYS.fullmatch(key) and _NUMBERS.fullmatch(value):
            yield line.group()
        elif TERM_KEYS.fullmatch(key):
            terms = [term for term in value.split(",") if _are_terms(term)]
            if terms:
                yield f"{before}{','.join(terms)}{after}"


def _are_terms(text: str) -> bool:
    return all(word.lower() in TERMS for word in _TERM_SEPARATORS.split(text) if word)
