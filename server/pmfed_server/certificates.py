"""The coordinator's own certificate authority, for federations that have none: one CA, certificates for two programs.

Sites believe this one authority and nothing else (`ca.crt`), so a certificate bought elsewhere adds nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pmfed.file_io import replace_file

CA_DAYS, SERVER_DAYS = 3650, 825
_CA_USE = ("key_cert_sign", "crl_sign")
_SERVER_USE = ("digital_signature",)


def make_authority(folder: Path) -> None:
    """Write ca.key (for its owner alone) and ca.crt."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pmfed coordinator CA")])
    certificate = (
        _begun(name, name, key.public_key(), CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(_CA_USE), critical=True)
        .sign(key, hashes.SHA384())
    )
    _write(folder / "ca", key, certificate)


def issue(folder: Path, file: str, names: Sequence[str]) -> None:
    """Write FILE.key and FILE.crt: a server's certificate for some host names and addresses, signed by the authority."""
    authority = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    signer = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    certificate = (
        _begun(name, authority.subject, key.public_key(), SERVER_DAYS)
        .add_extension(x509.SubjectAlternativeName([_alternative(one) for one in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(_SERVER_USE), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA384())
    )
    _write(folder / file, key, certificate)


def make_out(old: Path, new: Path) -> x509.Certificate:
    """Return a certificate for the authority in a folder, made out by the one in another, which sites believe.

    Both bear one name, so that it counts as self-issued and no limit on the length of a chain holds it back (RFC 5280,
    section 4.2.1.9).
    """
    before, after = (x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes()) for folder in (old, new))
    signer = serialization.load_pem_private_key((old / "ca.key").read_bytes(), None)
    public = after.public_key()
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    return (
        _begun(after.subject, before.subject, public, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(_CA_USE), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA384())
    )


def _begun(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))  # clocks differ a little
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(which: Sequence[str]) -> x509.KeyUsage:
    known = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: name in which for name in known})


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write(path: Path, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.with_suffix(".key").touch(mode=0o600, exist_ok=False)
    path.with_suffix(".key").write_bytes(secret)
    replace_file(path.with_suffix(".crt"), certificate.public_bytes(serialization.Encoding.PEM))
