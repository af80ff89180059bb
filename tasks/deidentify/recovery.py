"""Keep originals in the exported file, readable by one key: the Encrypted Attributes Sequence, and the way back.

A data set with one Modified Attributes Sequence (0400,0550), whose one item holds the original attributes, is encrypted
as Enveloped-data of the Cryptographic Message Syntax: AES-256-CBC under a key drawn for each file, and that key by RSA
(PKCS #1 v1.5) for the owner of a certificate. Encryption hides; it does not prove that nobody changed the content, so
what is recovered is as trustworthy as the place where the file lay.

Sources: PS3.15 sections E.1.1 and E.1.2, PS3.3 section C.12.1.1.4, RFC 5652 (CMS), RFC 3565 (AES in it).
"""

from __future__ import annotations

import datetime as dt
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.dicom.elements import (
    ITEM,
    LONG_LENGTH_VRS,
    SHORT_LENGTH_VRS,
    UNDEFINED,
    Element,
    WalkError,
    walk,
)
from tasks.dicom.syntax import EXPLICIT_LITTLE, IMPLICIT_LITTLE, SyntaxRefusalError, read_start
from tasks.dicom.text import decode_ascii
from tasks.errors import MissingPackageError, RecoveryError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import rsa

ENCRYPTED_ATTRIBUTES = 0x04000500
_TRANSFER_SYNTAX = 0x04000510
_CONTENT = 0x04000520
_MODIFIED_ATTRIBUTES = 0x04000550

_SOP_INSTANCE = 0x00080018
_IDENTITY_REMOVED = 0x00120062
_METHOD = 0x00120063
_METHOD_CODES = 0x00120064
_META_LENGTH = 0x00020000
_MEDIA_STORAGE_SOP_INSTANCE = 0x00020003

FEWEST_KEY_BITS = 2048

Original = tuple[int, str, bytes]
"""An attribute as it stood in the source: tag, VR, raw value."""

_ANOTHER_KEY = "it was encrypted for the owner of another certificate"
_DAMAGED = "its encrypted content is damaged or was changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """Whom originals are encrypted for.

    Attributes
    ----------
    content
        The certificate.
    expires
        Until when it says it is valid. An expired one still encrypts, and its key still decrypts.
    fingerprint
        SHA-256 of its DER form, 64 hexadecimal digits.
    """

    content: x509.Certificate
    expires: dt.datetime
    fingerprint: str


def load_certificate(path: Path) -> Certificate:
    """Read a certificate with an RSA key from a PEM file.

    Raises
    ------
    RecoveryError
        If the file holds no certificate or several, a private key as well, or a key that is not RSA of 2048 bits.
    MissingPackageError
        If the package for it is not installed.
    """
    _require_cryptography()
    from cryptography import x509  # noqa: PLC0415 - only those who encrypt need it
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: PLC0415

    remedy = "Name a PEM file with the one certificate of the person who may recover"
    what = "certificate"
    try:
        content = path.read_bytes()
    except OSError as fault:
        raise RecoveryError(what=what, path=path, problem="it cannot be read", remedy=remedy) from fault
    if b"PRIVATE KEY" in content:
        problem = "a private key stands beside it, which must not be where images are de-identified"
        remedy = "Give the certificate alone; the key stays with its owner"
        raise RecoveryError(what=what, path=path, problem=problem, remedy=remedy)
    try:
        found = x509.load_pem_x509_certificates(content)
        key = found[0].public_key()
        expires = found[0].not_valid_after_utc
    except ValueError as fault:
        raise RecoveryError(what=what, path=path, problem="it is no certificate in PEM form", remedy=remedy) from fault
    if len(found) > 1:
        raise RecoveryError(what=what, path=path, problem=f"the file holds {len(found)} certificates", remedy=remedy)
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size < FEWEST_KEY_BITS:
        problem = f"its key is not RSA of at least {FEWEST_KEY_BITS} bits"
        remedy = "Have one made with such a key"
        raise RecoveryError(what=what, path=path, problem=problem, remedy=remedy)
    return Certificate(content=found[0], expires=expires, fingerprint=found[0].fingerprint(hashes.SHA256()).hex())


class PassphraseNeededError(Exception):
    """A private key is encrypted, and no passphrase was given."""


def load_private_key(path: Path, passphrase: bytes | None = None) -> rsa.RSAPrivateKey:
    """Read the private key that belongs to a certificate from a PEM file.

    Raises
    ------
    RecoveryError
        If it cannot be read, others than its owner may read it, it is not RSA, or the passphrase does not open it.
    PassphraseNeededError
        If it is encrypted and no passphrase was given.
    MissingPackageError
        If the package for it is not installed.
    """
    _require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    what = "private key"
    remedy = "Name the PEM file with the key of the certificate"
    try:
        mode, content = path.stat().st_mode, path.read_bytes()
    except OSError as fault:
        raise RecoveryError(what=what, path=path, problem="it cannot be read", remedy=remedy) from fault
    if mode & 0o077:
        problem, remedy = "others than its owner may read it", "Make it mode 0600"
        raise RecoveryError(what=what, path=path, problem=problem, remedy=remedy)
    try:
        key = load_pem_private_key(content, passphrase)
    except TypeError as fault:
        if passphrase is None:
            raise PassphraseNeededError from fault
        # A passphrase was given for a key that has none.
        return load_private_key(path)
    except (ValueError, UnsupportedAlgorithm) as fault:
        problem = "the passphrase does not open it" if passphrase else "it is no private key in PEM form"
        raise RecoveryError(what=what, path=path, problem=problem, remedy=remedy) from fault
    if not isinstance(key, rsa.RSAPrivateKey):
        raise RecoveryError(what=what, path=path, problem="it is not RSA", remedy=remedy)
    return key


def encrypted_attributes(originals: Sequence[Original], certificate: Certificate) -> bytes:
    """Encrypt original attributes as CMS Enveloped-data (DER).

    The content key is drawn anew each time: equal originals give other bytes in every run, and must, or equal patients
    would be told by equal bytes.

    Parameters
    ----------
    originals
        Attributes of the top level, in any order, no tag twice, no sequences; values as they stand in a source of
        little endian. Give Specific Character Set (0008,0005) with them, if the source has it: texts mean nothing
        without. Private ones need their creators (gggg,00xx) with them.
    certificate
        For whom.
    """
    from cryptography.hazmat.primitives.ciphers import algorithms  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization.pkcs7 import PKCS7EnvelopeBuilder, PKCS7Options  # noqa: PLC0415

    tags = [tag for tag, _, _ in originals]
    if len(set(tags)) < len(tags) or any(vr == "SQ" for _, vr, _ in originals):
        raise ValueError("no attribute twice, and no sequences")
    item = b"".join(_element(tag, vr, value, explicit=True) for tag, vr, value in sorted(originals))
    content = _element(_MODIFIED_ATTRIBUTES, "SQ", _item(item), explicit=True)
    builder = PKCS7EnvelopeBuilder().set_data(content).set_content_encryption_algorithm(algorithms.AES256)
    return builder.add_recipient(certificate.content).encrypt(Encoding.DER, [PKCS7Options.Binary])


def encrypted_element(originals: Sequence[Original], certificate: Certificate, *, explicit: bool) -> bytes:
    """Write the whole Encrypted Attributes Sequence (0400,0500) with one item; see `encrypted_attributes`.

    Parameters
    ----------
    originals, certificate
        As there.
    explicit
        Whether the file it goes into is in explicit VR little endian, else in implicit VR little endian.
    """
    item = _element(_TRANSFER_SYNTAX, "UI", EXPLICIT_LITTLE.encode("ascii"), explicit=explicit)
    item += _element(_CONTENT, "OB", encrypted_attributes(originals, certificate), explicit=explicit)
    return _element(ENCRYPTED_ATTRIBUTES, "SQ", _item(item), explicit=explicit)


class RecoveryRefusalError(Exception):
    """The originals cannot be had; `problem` is the end of a sentence that says why."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


def recover(
    content: bytes, private_key: rsa.RSAPrivateKey, certificate: Certificate, *, explicit: bool = True
) -> list[Original]:
    """Decrypt original attributes.

    Parameters
    ----------
    content
        Encrypted Content (0400,0520), with or without the byte that makes its length even.
    private_key, certificate
        Of the one it was encrypted for.
    explicit
        Whether the data set inside is in explicit VR little endian, else in implicit VR little endian.

    Returns
    -------
    list of (tag, VR, raw value)
        As they were encrypted.

    Raises
    ------
    RecoveryRefusalError
        If it was encrypted for somebody else, was damaged, or holds sequences, which are not put back.
    """
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization.pkcs7 import pkcs7_decrypt_der  # noqa: PLC0415

    if private_key.public_key() != certificate.content.public_key():
        raise RecoveryRefusalError("the private key does not belong to the certificate")
    if _serial_number(certificate.content) not in content or certificate.content.issuer.public_bytes() not in content:
        raise RecoveryRefusalError(_ANOTHER_KEY)
    try:
        data = pkcs7_decrypt_der(_without_padding(content), certificate.content, private_key, [])
        elements = list(walk(data, explicit=explicit))
    except (ValueError, UnsupportedAlgorithm, WalkError) as fault:
        raise RecoveryRefusalError(_DAMAGED) from fault
    outer = [element.tag for element in elements if element.depth == 0 and (element.vr or element.tag == ITEM)]
    if outer[:1] != [_MODIFIED_ATTRIBUTES]:
        raise RecoveryRefusalError(_DAMAGED)
    if outer[1:] != [ITEM]:
        raise RecoveryRefusalError("its encrypted content has not one item, as the standard demands")
    originals = [element for element in elements if element.depth == 1 and element.vr]
    if any(element.vr == "SQ" for element in originals):
        raise RecoveryRefusalError("its encrypted content holds sequences, which scanward does not put back")
    return [(element.tag, _written_vr(data, element), data[element.value : element.end]) for element in originals]


def recover_file(content: bytes, private_key: rsa.RSAPrivateKey, certificate: Certificate) -> bytes:
    """Put the original attributes of a de-identified file back, as PS3.15 section E.1.2 describes.

    They replace what stands at the top level; the Encrypted Attributes Sequence goes. The file then says that the
    identity is not removed, and no longer by which method it was, unless that is among the originals. Everything else
    stays byte for byte: what was replaced inside sequences and private elements stays replaced.

    Raises
    ------
    RecoveryRefusalError
        If the file cannot be followed, has no Encrypted Attributes Sequence, or none that opens; see `recover`.
    """
    try:
        start = read_start(content)
        elements = list(walk(content, start.offset, explicit=start.explicit))
    except (SyntaxRefusalError, WalkError) as fault:
        raise RecoveryRefusalError("it is no DICOM file of little endian that can be read to its end") from fault
    top = [index for index, element in enumerate(elements) if element.depth == 0 and element.vr]
    ends = [elements[following].start for following in top[1:]] + [len(content)]
    originals = _originals(content, elements, private_key, certificate)
    new: dict[int, bytes | None] = {ENCRYPTED_ATTRIBUTES: None, _METHOD: None, _METHOD_CODES: None}
    new[_IDENTITY_REMOVED] = _element(_IDENTITY_REMOVED, "CS", b"NO", explicit=start.explicit)
    new |= {tag: _element(tag, vr, value, explicit=start.explicit) for tag, vr, value in originals}
    pieces: dict[int, bytes | None] = {
        elements[index].tag: content[elements[index].start : end] for index, end in zip(top, ends, strict=True)
    }
    if len(pieces) < len(top):
        raise RecoveryRefusalError("an attribute stands in it twice")
    pieces |= new
    body = b"".join(piece for _, piece in sorted(pieces.items()) if piece)
    instance = next((value for tag, _, value in originals if tag == _SOP_INSTANCE), None)
    return _with_instance(content[: start.offset], instance) + body


def _originals(
    content: bytes, elements: Sequence[Element], private_key: rsa.RSAPrivateKey, certificate: Certificate
) -> list[Original]:
    """Decrypt the items of the Encrypted Attributes Sequence that are for the owner of the key."""
    inside = False
    items: list[dict[int, bytes]] = []
    for element in elements:
        if element.depth == 0 and element.vr:
            inside = element.tag == ENCRYPTED_ATTRIBUTES
        elif inside and element.depth == 0 and element.tag == ITEM:
            items.append({})
        elif inside and element.depth == 1 and element.end != UNDEFINED and items:
            items[-1][element.tag] = content[element.value : element.end]
    items = [item for item in items if _CONTENT in item]
    if not items:
        raise RecoveryRefusalError("it holds no encrypted originals (Encrypted Attributes Sequence)")
    originals: dict[int, Original] = {}
    refusals = []
    for item in items:
        syntax = decode_ascii(item.get(_TRANSFER_SYNTAX, b""))
        if syntax not in (EXPLICIT_LITTLE, IMPLICIT_LITTLE):
            refusals.append("its originals are in a transfer syntax that scanward does not read")
            continue
        try:
            found = recover(item[_CONTENT], private_key, certificate, explicit=syntax == EXPLICIT_LITTLE)
        except RecoveryRefusalError as refusal:
            refusals.append(refusal.problem)
        else:
            originals |= {original[0]: original for original in found}
    # Those for other people are no fault as long as one is for the owner of this key.
    if not originals or any(problem != _ANOTHER_KEY for problem in refusals):
        raise RecoveryRefusalError(min(refusals, key=lambda problem: problem == _ANOTHER_KEY, default=_DAMAGED))
    return list(originals.values())


def _with_instance(head: bytes, instance: bytes | None) -> bytes:
    """Put a SOP Instance UID into preamble and file meta information, and make their length right."""
    if instance is None:
        return head
    group = [element for element in walk(head, 132, explicit=True) if element.tag != _META_LENGTH]
    meta = b"".join(
        _element(element.tag, "UI", instance, explicit=True)
        if element.tag == _MEDIA_STORAGE_SOP_INSTANCE
        else head[element.start : element.end]
        for element in group
    )
    return head[:132] + _element(_META_LENGTH, "UL", struct.pack("<L", len(meta)), explicit=True) + meta


def _written_vr(data: bytes, element: Element) -> str:
    """Return the VR as it is written; the walker looks up what UN may mean."""
    return data[element.start + 4 : element.start + 6].decode("ascii") if element.explicit else element.vr


def _item(content: bytes) -> bytes:
    return b"\xfe\xff\x00\xe0" + struct.pack("<L", len(content)) + content


def _element(tag: int, vr: str, value: bytes, *, explicit: bool) -> bytes:
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    if len(value) & 1:
        value += b"\0" if vr in ("UI", "OB", "UN") else b" "
    if not explicit:
        return head + struct.pack("<L", len(value)) + value
    code = vr.encode("ascii")
    if code in SHORT_LENGTH_VRS and len(value) <= 0xFFFF:
        return head + code + struct.pack("<H", len(value)) + value
    # What is too long for its VR, or of a VR that no file can name, is UN (PS3.5 section 6.2.2).
    return head + (code if code in LONG_LENGTH_VRS else b"UN") + b"\0\0" + struct.pack("<L", len(value)) + value


def _without_padding(content: bytes) -> bytes:
    """Cut what follows the outermost DER value, which tells its own length (X.690 section 8.1.3)."""
    if len(content) < 2 or content[1] < 0x80:
        return content
    size = content[1] & 0x7F
    return content[: 2 + size + int.from_bytes(content[2 : 2 + size], "big")]


def _serial_number(certificate: x509.Certificate) -> bytes:
    """Write a serial number as it stands in the list of recipients: a DER INTEGER (X.690 section 8.3)."""
    number = certificate.serial_number
    value = number.to_bytes(number.bit_length() // 8 + 1, "big")
    return bytes((2, len(value))) + value


def _require_cryptography() -> None:
    try:
        import cryptography  # noqa: F401, PLC0415
    except ImportError as fault:
        purpose = "Encrypting original attributes, or recovering them,"
        raise MissingPackageError(purpose=purpose, package="cryptography", extra="recovery") from fault
