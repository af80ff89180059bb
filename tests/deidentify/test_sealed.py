"""What is encrypted under a passphrase comes back under it alone, and every changed byte is noticed."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from tasks.deidentify.sealed import UnsealError, is_sealed, seal, unseal

SESAME = b"open sesame, open"
CONTENT = b"some content " * 20


@pytest.fixture(scope="module")
def sealed() -> bytes:
    return seal(CONTENT, SESAME)


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Seal with a scrypt that takes a ten-thousandth of its time; what opens a file goes by the file's own header."""
    monkeypatch.setattr("tasks.deidentify.sealed._COST", 4)
    return seal(CONTENT, SESAME)


def test_the_documented_header_is_the_one_that_is_written(sealed: bytes) -> None:
    """Worked out with the standard library and the cipher alone, by the table in the module."""
    assert (sealed[:15], sealed[15:20]) == (b"scanward sealed", bytes((1, 17, 8, 1, 0)))
    key = hashlib.scrypt(SESAME, salt=sealed[20:36], n=1 << 17, r=8, p=1, maxmem=1 << 28, dklen=32)
    cipher = Cipher(algorithms.AES256(key), modes.GCM(sealed[36:48], sealed[-16:])).decryptor()
    cipher.authenticate_additional_data(sealed[:48])
    assert cipher.update(sealed[48:-16]) + cipher.finalize() == CONTENT


def test_what_was_sealed_comes_back_and_never_looks_the_same(sealed: bytes) -> None:
    assert is_sealed(sealed)
    assert b"content" not in sealed
    assert unseal(sealed, SESAME) == CONTENT
    other = seal(CONTENT, SESAME)
    assert {len(part) for part in (sealed, other)} == {48 + len(CONTENT) + 16}
    assert (sealed[20:36], sealed[36:48], sealed[48:]) != (other[20:36], other[36:48], other[48:])
    for wrong in (SESAME + b" ", b""):
        with pytest.raises(UnsealError, match="does not open it"):
            unseal(sealed, wrong)


def test_every_changed_byte_is_noticed(cheap: bytes) -> None:
    """All of the header is covered; one that asks for more memory than a machine has is not obeyed."""
    for place in range(len(cheap)):
        for bit in (0x01, 0x80) if place != 16 else (0x40, 0x80):
            changed = bytearray(cheap)
            changed[place] ^= bit
            with pytest.raises(UnsealError):
                unseal(bytes(changed), SESAME)
    for cut in range(len(cheap)):
        with pytest.raises(UnsealError):
            unseal(cheap[:cut], SESAME)


@given(st.integers(0, 47), st.binary(max_size=400))
def test_any_file_that_begins_like_one_is_refused(keep: int, rest: bytes) -> None:
    head = b"scanward sealed" + bytes((1, 2, 8, 1, 0)) + bytes(28)
    content = head[:keep] + rest
    with pytest.raises(UnsealError):
        # A high cost would be obeyed up to a gigabyte, and takes its time.
        unseal(content[:16] + b"\x02" + content[17:], SESAME)
