"""Originals go into the exported file for the owner of one key, and come back as they were."""

from __future__ import annotations

import datetime as dt
import io
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.deidentify.profile import DEFAULT_PROFILE
from tasks.deidentify.recovery import (
    ENCRYPTED_ATTRIBUTES,
    Certificate,
    Original,
    PassphraseNeededError,
    RecoveryRefusalError,
    encrypted_attributes,
    encrypted_element,
    load_certificate,
    load_private_key,
    recover,
    recover_file,
)
from tasks.deidentify.rewrite import rewrite
from tasks.dicom.elements import LONG_LENGTH_VRS, SHORT_LENGTH_VRS, walk
from tasks.dicom.syntax import read_start
from tasks.errors import RecoveryError
from tests.deidentify.images import image, text
from tests.deidentify.oracle import IDENTITY, SUBJECT

VRS = sorted(vr.decode() for vr in (LONG_LENGTH_VRS | SHORT_LENGTH_VRS) - {b"SQ", b"UN"})

ORIGINALS: list[Original] = [
    (0x00080005, "CS", b"ISO_IR 192"),
    (0x00080018, "UI", b"1.2.840.99.7\0\0"[:12]),
    (0x00100010, "PN", "Müller^Änne ".encode()[:14]),
    (0x00100020, "LO", b"MRN0042 "),
    (0x00100030, "DA", b"19310203"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Somebody with a key and a certificate, in memory and on disk."""

    key: rsa.RSAPrivateKey
    certificate: Certificate
    key_path: Path
    certificate_path: Path


def make_certificate(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, *, until: int = 2090, number: int = 1
) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Principal Investigator")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(number)
        .not_valid_before(dt.datetime(2000, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(dt.datetime(until, 1, 1, tzinfo=dt.UTC))
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(Encoding.PEM)


def make_owner(folder: Path, *, number: int) -> Owner:
    key = rsa.generate_private_key(65537, 2048)
    key_path, certificate_path = folder / f"key-{number}.pem", folder / f"certificate-{number}.pem"
    key_path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    key_path.chmod(0o600)
    certificate_path.write_bytes(make_certificate(key, number=number))
    return Owner(
        key=key,
        certificate=load_certificate(certificate_path),
        key_path=key_path,
        certificate_path=certificate_path,
    )


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Owner:
    return make_owner(tmp_path_factory.mktemp("owner"), number=128)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Owner:
    return make_owner(tmp_path_factory.mktemp("stranger"), number=(1 << 159) - 3)


# ---- what is encrypted


def even(value: bytes) -> bytes:
    return value + b" " * (len(value) % 2)


@settings(max_examples=40)
@given(
    originals=st.dictionaries(
        st.integers(0x00080000, 0x5FFFFFFF),
        st.tuples(st.sampled_from(VRS), st.binary(max_size=60).map(even)),
        max_size=12,
    )
)
def test_what_comes_back_is_what_went_in(owner: Owner, originals: dict[int, tuple[str, bytes]]) -> None:
    listed = [(tag, vr, value) for tag, (vr, value) in originals.items()]
    content = encrypted_attributes(listed[::-1], owner.certificate)
    assert recover(content, owner.key, owner.certificate) == sorted(listed)
    assert recover(content + b"\0", owner.key, owner.certificate) == sorted(listed)


@pytest.mark.parametrize(
    "value", [b"\r\n", b"a\nb\r\nc\r", b"Content-Type: text/plain\r\n\r\nab", bytes(range(256)) * 600]
)
def test_bytes_are_not_taken_for_text_and_long_ones_stay_whole(owner: Owner, value: bytes) -> None:
    """CMS libraries turn line ends round unless they are told not to; a value of 150 kB is too long for LO."""
    content = encrypted_attributes([(0x00100020, "LO", even(value))], owner.certificate)
    ((tag, vr, back),) = recover(content, owner.key, owner.certificate)
    assert (tag, back) == (0x00100020, even(value))
    assert vr == ("LO" if len(value) < 0x10000 else "UN")


def test_nothing_of_an_original_can_be_read_and_equal_ones_do_not_look_equal(owner: Owner) -> None:
    one, other = (encrypted_attributes(ORIGINALS, owner.certificate) for _ in range(2))
    for _, _, value in ORIGINALS:
        assert value not in one
    assert one != other
    # AES-256-CBC (RFC 3565) and RSA encryption (RFC 8017), by the DER of their names.
    assert bytes.fromhex("060960864801650304012a") in one
    assert bytes.fromhex("06092a864886f70d010101") in one


def test_sequences_and_doubled_attributes_are_refused(owner: Owner) -> None:
    for wrong in ([(0x00400275, "SQ", b"")], [ORIGINALS[0], ORIGINALS[0]]):
        with pytest.raises(ValueError, match="no attribute twice"):
            encrypted_attributes(wrong, owner.certificate)


def test_openssl_decrypts_it_and_pydicom_reads_what_comes_out(
    owner: Owner, tmp_path: Path, program: Callable[[str], str]
) -> None:
    path = tmp_path / "content.der"
    path.write_bytes(encrypted_attributes(ORIGINALS, owner.certificate))
    words = ["-decrypt", "-binary", "-inform", "DER", "-in", path]
    words += ["-recip", owner.certificate_path, "-inkey", owner.key_path]
    done = subprocess.run([program("openssl"), "cms", *words], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    (element,) = pydicom.filereader.read_dataset(io.BytesIO(done.stdout), is_implicit_VR=False, is_little_endian=True)
    assert element.keyword == "ModifiedAttributesSequence"
    (item,) = element.value
    assert item.PatientName == "Müller^Änne"
    assert {one.tag: one.VR for one in item} == {tag: vr for tag, vr, _ in ORIGINALS}


def test_what_openssl_encrypted_comes_back(owner: Owner, tmp_path: Path, program: Callable[[str], str]) -> None:
    """Another writer, of AES-128, with the inner data set of undefined lengths."""
    item = b"\x10\x00\x10\x00PN\x08\x00Doe^Jane" + b"\xfe\xff\x0d\xe0\0\0\0\0"
    data = (
        b"\x00\x04\x50\x05SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" + item + b"\xfe\xff\xdd\xe0\0\0\0\0"
    )
    words = ["-encrypt", "-binary", "-nosmimecap", "-aes128", "-outform", "DER", owner.certificate_path]
    done = subprocess.run([program("openssl"), "cms", *words], input=data, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert recover(done.stdout, owner.key, owner.certificate) == [(0x00100010, "PN", b"Doe^Jane")]


# ---- who may read it


def test_the_wrong_key_and_the_wrong_certificate_are_told(owner: Owner, stranger: Owner) -> None:
    content = encrypted_attributes(ORIGINALS, owner.certificate)
    with pytest.raises(RecoveryRefusalError, match="for the owner of another certificate"):
        recover(content, stranger.key, stranger.certificate)
    for key, certificate in ((stranger.key, owner.certificate), (owner.key, stranger.certificate)):
        with pytest.raises(RecoveryRefusalError, match="does not belong to the certificate"):
            recover(content, key, certificate)


def test_a_new_certificate_of_the_same_number_and_name_with_another_key_opens_nothing(
    owner: Owner, tmp_path: Path
) -> None:
    key = rsa.generate_private_key(65537, 2048)
    (tmp_path / "twin.pem").write_bytes(make_certificate(key, number=128))
    content = encrypted_attributes(ORIGINALS, owner.certificate)
    with pytest.raises(RecoveryRefusalError, match="damaged or was changed"):
        recover(content, key, load_certificate(tmp_path / "twin.pem"))


@settings(max_examples=60)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_never_gives_anything_but_a_refusal_or_attributes(owner: Owner, place: float, bit: int) -> None:
    """CBC does not notice every change; what it lets pass must still be a data set, and never a crash."""
    content = bytearray(encrypted_attributes(ORIGINALS, owner.certificate))
    content[int(place * len(content))] ^= 1 << bit
    try:
        found = recover(bytes(content), owner.key, owner.certificate)
    except RecoveryRefusalError:
        return
    assert all(tag and len(vr) == 2 for tag, vr, _ in found)


@given(content=st.binary(max_size=300))
def test_any_bytes_are_refused(owner: Owner, content: bytes) -> None:
    with pytest.raises(RecoveryRefusalError):
        recover(content, owner.key, owner.certificate)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.99])
def test_content_that_was_cut_is_refused(owner: Owner, keep: float) -> None:
    content = encrypted_attributes(ORIGINALS, owner.certificate)
    with pytest.raises(RecoveryRefusalError, match=r"damaged|another certificate"):
        recover(content[: int(keep * len(content))], owner.key, owner.certificate)


# ---- the file


def deidentified(owner: Owner, originals: list[Original], *, explicit: bool = True, syntax: str = "") -> bytes:
    """Write a file as the rewriter would: stand-ins, the stamps, and the sequence among them."""
    whole = image(
        text(0x00080018, "UI", "2.25.1"),
        text(0x00100010, "PN", "SUB-0001"),
        text(0x00100020, "LO", "SUB-0001"),
        text(0x00120062, "CS", "YES"),
        text(0x00120063, "LO", "scanward"),
        explicit=explicit,
        syntax=syntax,
    )
    start = read_start(whole)
    place = next(e.start for e in walk(whole, start.offset, explicit=start.explicit) if e.tag > ENCRYPTED_ATTRIBUTES)
    return whole[:place] + encrypted_element(originals, owner.certificate, explicit=start.explicit) + whole[place:]


def top_level(content: bytes) -> dict[int, bytes]:
    """Return what stands at the top level: tag to the bytes of the whole element, head included."""
    start = read_start(content)
    top = [one for one in walk(content, start.offset, explicit=start.explicit) if one.depth == 0 and one.vr]
    ends = [one.start for one in top[1:]] + [len(content)]
    return {one.tag: content[one.start : end] for one, end in zip(top, ends, strict=True)}


def put_originals_in(exported: bytes, source: bytes, certificate: Certificate) -> tuple[bytes, set[int]]:
    """Add the sequence to an exported file, with every plain standard attribute of its source that is another there."""
    start = read_start(source)
    there = top_level(exported)
    originals = [
        (one.tag, one.vr, source[one.value : one.end])
        for one in walk(source, start.offset, explicit=start.explicit)
        if one.depth == 0 and one.vr not in ("", "SQ") and not one.tag & 0x10000
        if one.tag < 0x7FE00000 and there.get(one.tag) != source[one.start : one.end]
    ]
    element = encrypted_element(originals, certificate, explicit=start.explicit)
    whole = there | {ENCRYPTED_ATTRIBUTES: element}
    head = exported[: read_start(exported).offset]
    return head + b"".join(piece for _, piece in sorted(whole.items())), {tag for tag, _, _ in originals}


def assert_recovered(source: bytes, owner: Owner) -> None:
    exported = rewrite(source, profile=DEFAULT_PROFILE, identity=IDENTITY, subject=SUBJECT).content
    holding, tags = put_originals_in(exported, source, owner.certificate)
    recovered = recover_file(holding, owner.key, owner.certificate)
    was, is_now, between = top_level(source), top_level(recovered), top_level(exported)
    assert {0x00080018, 0x0020000D, 0x0020000E, 0x00100010, 0x00100020} <= tags
    assert {tag: is_now[tag] for tag in tags} == {tag: was[tag] for tag in tags}
    stamps = {0x00120062, 0x00120063, 0x00120064}
    assert is_now.keys() == between.keys() - stamps | tags | {0x00120062}
    rest = is_now.keys() - stamps - tags
    assert {tag: is_now[tag] for tag in rest} == {tag: between[tag] for tag in rest}
    back = pydicom.dcmread(io.BytesIO(recovered))
    assert back.file_meta.MediaStorageSOPInstanceUID == back.SOPInstanceUID
    assert back.file_meta.TransferSyntaxUID == pydicom.dcmread(io.BytesIO(source)).file_meta.TransferSyntaxUID
    assert back.PatientIdentityRemoved == "NO"


@pytest.mark.parametrize("explicit", [True, False])
def test_a_recovered_file_has_its_originals_again_and_the_rest_as_it_was(owner: Owner, explicit: bool) -> None:
    assert_recovered(image(text(0x00104000, "LT", "was removed whole"), explicit=explicit), owner)


@pytest.mark.parametrize(
    "series", ["dcm_qa_nih/In/20180918GE", "dcm_qa_nih/In/20180918Si", "dcm_qa_philips/In", "dcm_qa_uih/In"]
)
def test_a_scanners_own_file_is_recovered(owner: Owner, scanner_data: Path, series: str) -> None:
    path = min(path for path in (scanner_data / series).rglob("*") if path.is_file() and path.stat().st_size > 20_000)
    assert_recovered(path.read_bytes(), owner)


def test_originals_that_say_how_the_source_was_deidentified_stay(owner: Owner) -> None:
    exported = deidentified(owner, [(0x00120062, "CS", b"YES "), (0x00120063, "LO", b"earlier ")])
    back = pydicom.dcmread(io.BytesIO(recover_file(exported, owner.key, owner.certificate)))
    assert (back.PatientIdentityRemoved, back.DeidentificationMethod) == ("YES", "earlier")


def test_a_file_for_several_owners_opens_for_each(owner: Owner, stranger: Owner) -> None:
    whole = deidentified(owner, ORIGINALS)
    start = read_start(whole)
    (place,) = (e for e in walk(whole, start.offset, explicit=True) if e.tag == ENCRYPTED_ATTRIBUTES)
    other = encrypted_element(ORIGINALS[3:4], stranger.certificate, explicit=True)[12:]
    both = whole[place.value : place.end] + other
    head = whole[place.start : place.start + 8] + len(both).to_bytes(4, "little")
    exported = whole[: place.start] + head + both + whole[place.end :]
    for reader, name in ((owner, "Müller^Änne"), (stranger, "SUB-0001")):
        back = pydicom.dcmread(io.BytesIO(recover_file(exported, reader.key, reader.certificate)))
        assert (back.PatientName, back.PatientID) == (name, "MRN0042")
        assert ENCRYPTED_ATTRIBUTES not in back


def test_what_cannot_be_recovered_is_told(owner: Owner, stranger: Owner) -> None:
    exported = deidentified(owner, ORIGINALS)
    for content, reader, problem in (
        (image(), owner, "holds no encrypted originals"),
        (exported, stranger, "another certificate"),
        (exported[:-9], owner, "can be read to its end"),
        (b"no image", owner, "can be read to its end"),
        (exported.replace(b"\x05UI\x14\x001.2.840.10008.1.2.1", b"\x05UI\x14\x001.2.840.10008.1.2.2"), owner, "syntax"),
    ):
        with pytest.raises(RecoveryRefusalError, match=problem):
            recover_file(content, reader.key, reader.certificate)


@settings(max_examples=30)
@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
def test_a_file_with_a_changed_byte_is_refused_or_read(owner: Owner, place: float, value: int) -> None:
    exported = bytearray(deidentified(owner, ORIGINALS))
    exported[int(place * len(exported))] = value
    try:
        assert recover_file(bytes(exported), owner.key, owner.certificate)
    except RecoveryRefusalError as refusal:
        assert refusal.problem  # noqa: PT017 - either outcome is allowed


# ---- certificates and keys


def test_a_certificate_says_until_when_and_which_it_is(
    owner: Owner, tmp_path: Path, program: Callable[[str], str]
) -> None:
    (tmp_path / "old.pem").write_bytes(make_certificate(owner.key, until=2001))
    old = load_certificate(tmp_path / "old.pem")
    assert old.expires == dt.datetime(2001, 1, 1, tzinfo=dt.UTC)
    assert recover(encrypted_attributes(ORIGINALS, old), owner.key, old) == ORIGINALS
    words = ["x509", "-noout", "-fingerprint", "-sha256", "-in", owner.certificate_path]
    told = subprocess.run([program("openssl"), *words], capture_output=True, text=True, check=True).stdout
    assert told.strip().rpartition("=")[2].replace(":", "").lower() == owner.certificate.fingerprint


def test_certificates_that_will_not_do_are_told(owner: Owner, tmp_path: Path) -> None:
    pem = owner.certificate_path.read_bytes()
    for content, problem in (
        (pem + owner.key_path.read_bytes(), "a private key stands beside it"),
        (owner.key_path.read_bytes(), "a private key stands beside it"),
        (pem + pem, "holds 2 certificates"),
        (b"", "no certificate in PEM form"),
        (owner.certificate.content.public_bytes(Encoding.DER), "no certificate in PEM form"),
        (pem.replace(b"A", b"B"), "no certificate in PEM form"),
        (make_certificate(ec.generate_private_key(ec.SECP256R1())), "not RSA of at least 2048 bits"),
        (make_certificate(rsa.generate_private_key(65537, 1024)), "not RSA of at least 2048 bits"),
    ):
        path = tmp_path / "certificate.pem"
        path.write_bytes(content)
        with pytest.raises(RecoveryError, match=problem):
            load_certificate(path)
    with pytest.raises(RecoveryError, match="cannot be read"):
        load_certificate(tmp_path)


def test_keys_that_will_not_do_are_told(owner: Owner, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.touch(mode=0o600)
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for content, problem in (
        (b"", "no private key in PEM form"),
        (owner.certificate_path.read_bytes(), "no private key in PEM form"),
        (other, "it is not RSA"),
    ):
        path.write_bytes(content)
        with pytest.raises(RecoveryError, match=problem):
            load_private_key(path)
    with pytest.raises(RecoveryError, match="cannot be read"):
        load_private_key(tmp_path / "none")
    path.chmod(0o640)
    with pytest.raises(RecoveryError, match="others than its owner"):
        load_private_key(path)


def test_a_key_under_a_passphrase(owner: Owner, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.touch(mode=0o600)
    locked = owner.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"open sesame"))
    path.write_bytes(locked)
    with pytest.raises(PassphraseNeededError):
        load_private_key(path)
    with pytest.raises(RecoveryError, match="passphrase does not open it"):
        load_private_key(path, b"open barley")
    for key in (load_private_key(path, b"open sesame"), load_private_key(owner.key_path, b"needless")):
        assert key.public_key() == owner.certificate.content.public_key()
