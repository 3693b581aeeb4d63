"""A site's identity: an Ed25519 key (RFC 8032) kept at the site, and what it signs."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from pmfed.errors import PolicyError, UsageError


class Identity:
    """A site's signing key.

    Parameters
    ----------
    key
        The private key; it never leaves the site.
    """

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes_raw().hex()

    @staticmethod
    @cache
    def at(path: Path) -> Identity:
        """Return the identity kept in a PEM file, made on first use with rights 0600.

        Raises
        ------
        PolicyError
            The file is there but is no Ed25519 key, or others may read it.
        """
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return Identity(_read(path))
        key = Ed25519PrivateKey.generate()
        with os.fdopen(descriptor, "wb") as file:
            file.write(
                key.private_bytes(
                    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
                )
            )
            file.flush()
            os.fsync(file.fileno())
        return Identity(key)

    def derived(self, purpose: str) -> bytes:
        """Return a secret of 32 bytes for one purpose (HKDF-SHA-256, RFC 5869); it tells nothing of the key or of others."""
        return HKDF(hashes.SHA256(), 32, salt=None, info=b"pmfed " + purpose.encode()).derive(
            self._key.private_bytes_raw()
        )

    def sign(self, data: bytes) -> str:
        """Return the signature of some bytes, in hex."""
        return self._key.sign(data).hex()

    def signed(self, document: dict[str, Any]) -> str:
        """Return a JSON document with ``key`` and ``signature`` over its canonical form."""
        body = {**document, "key": self.public}
        return json.dumps({**body, "signature": self.sign(canonical(body))}, sort_keys=True)


def fits(key: str, data: bytes, signature: str) -> bool:
    """Whether a signature (hex) of some bytes was made with the private half of a public key (hex)."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(bytes.fromhex(signature), data)
    except (InvalidSignature, ValueError):
        return False
    return True


def verify(signed: str) -> dict[str, Any]:
    """Return the document of `Identity.signed` when its signature fits; ValueError when it does not."""
    try:
        body: dict[str, Any] = json.loads(signed)
        signature = body.pop("signature")
        good = fits(body["key"], canonical(body), signature)
    except (KeyError, TypeError, AttributeError, RecursionError):
        good = False
    if not good:
        raise ValueError("the signature does not fit the document")
    return body


def read_key(path: Path) -> str:
    """Return the public key in a file like coordinator.pub (64 hex digits); UsageError when it is none."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read ({type(error).__name__}).", "Check the path.") from None
    if len(text) != 64 or set(text) - set("0123456789abcdef"):
        raise UsageError(f"{path}: is not a public key.", "Ask the coordinator for its coordinator.pub.")
    return text


def canonical(document: dict[str, Any]) -> bytes:
    """Return the one spelling of a JSON document that is signed."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _read(path: Path) -> Ed25519PrivateKey:
    if path.stat().st_mode & 0o077:
        raise PolicyError(f"{path}: others may read the site's key. Nothing was released.", f"Run: chmod 600 {path}")
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise PolicyError(f"{path}: not an Ed25519 key in PEM. Nothing was released.", "Restore it from your backup.")
    return key
