"""Encrypt a small file under a passphrase: AES-256-GCM with a key that scrypt makes of the passphrase.

The format, 48 bytes of header and then the encrypted content with its tag of 16 bytes:

    offset  size  meaning
         0    15  b"scanward sealed"
        15     1  version, 1
        16     1  cost of scrypt: the binary logarithm of N
        17     1  r of scrypt
        18     1  p of scrypt
        19     1  0
        20    16  salt of scrypt
        36    12  nonce of AES-GCM

The tag covers header and content, so that neither can be changed unnoticed. Salt and nonce are drawn anew each time.
Sources: RFC 7914 (scrypt), NIST SP 800-38D (GCM).
"""

from __future__ import annotations

import hashlib
import secrets
import struct

from tasks.errors import MissingPackageError

SHORTEST_PASSPHRASE = 12
"""Bytes; whoever has the file can try passphrases for as long as they like."""

_MAGIC = b"scanward sealed"
_VERSION = 1
_HEADER = struct.Struct(f"<{len(_MAGIC)}s4Bx16s12s")
_COST, _BLOCK_SIZE, _PARALLEL = 17, 8, 1
_HIGHEST_COST, _LARGEST_BLOCK_SIZE, _MOST_PARALLEL = 20, 8, 4
"""A file may ask for so much memory (1 GiB) and time, and for no more."""


class UnsealError(Exception):
    """The content cannot be had; `problem` is the end of a sentence that says why."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


def is_sealed(head: bytes) -> bool:
    """Tell by its first bytes whether a file is one of this format."""
    return head.startswith(_MAGIC)


def require_cipher() -> None:
    """Look whether the package for it is installed.

    Raises
    ------
    MissingPackageError
        If not.
    """
    try:
        import cryptography.hazmat.primitives.ciphers.aead  # noqa: F401, PLC0415 - only those who encrypt need it
    except ImportError as fault:
        raise MissingPackageError(purpose="Encryption", package="cryptography", extra="recovery") from fault


def seal(content: bytes, passphrase: bytes) -> bytes:
    """Encrypt."""
    require_cipher()
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

    salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
    header = _HEADER.pack(_MAGIC, _VERSION, _COST, _BLOCK_SIZE, _PARALLEL, salt, nonce)
    key = _derive(passphrase, salt, _COST, _BLOCK_SIZE, _PARALLEL)
    return header + AESGCM(key).encrypt(nonce, content, header)


def unseal(sealed: bytes, passphrase: bytes) -> bytes:
    """Decrypt what `seal` gave.

    Raises
    ------
    UnsealError
        If the passphrase is another, or a byte was changed.
    """
    require_cipher()
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

    if len(sealed) < _HEADER.size or not is_sealed(sealed):
        raise UnsealError("it was cut, or is no file that scanward encrypted")
    _, version, cost, block_size, parallel, salt, nonce = _HEADER.unpack_from(sealed)
    if version != _VERSION:
        raise UnsealError(f"it has the format {version}, not {_VERSION}")
    if not (1 <= cost <= _HIGHEST_COST and 1 <= block_size <= _LARGEST_BLOCK_SIZE and 1 <= parallel <= _MOST_PARALLEL):
        raise UnsealError("its header was changed")
    key = _derive(passphrase, salt, cost, block_size, parallel)
    try:
        return AESGCM(key).decrypt(nonce, sealed[_HEADER.size :], sealed[: _HEADER.size])
    except InvalidTag:
        raise UnsealError("the passphrase does not open it, or the file was changed") from None


def _derive(passphrase: bytes, salt: bytes, cost: int, block_size: int, parallel: int) -> bytes:
    memory = 128 * block_size * ((1 << cost) + parallel + 2) + (1 << 20)
    return hashlib.scrypt(passphrase, salt=salt, n=1 << cost, r=block_size, p=parallel, maxmem=memory, dklen=32)
