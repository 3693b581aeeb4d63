"""Whether a coordinator's new certificate authority was made out by the one a site believes, and then taking it over."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from pmfed.errors import PolicyError
from pmfed.file_io import replace_file


def take_over(path: Path, told: Sequence[str]) -> bool:
    """Believe a new authority instead of the old one; False when it is the one that is believed already.

    Parameters
    ----------
    path
        The certificate of the authority that this site believes.
    told
        Of the new one: its own certificate, then those that the authorities of before made out for the next (base64, DER).

    Raises
    ------
    PolicyError
        No chain of signatures leads from the old to the new.

    Guarantee
    ---------
    What is written is the certificate of an authority whose key the old authority, or one that it vouched for so, has signed.
    """
    try:
        new, *made_out = [x509.load_der_x509_certificate(base64.b64decode(one, validate=True)) for one in told]
        old = x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError:
        raise PolicyError(f"{path}: it, or what was sent, holds no certificate. Nothing was changed.") from None
    if new == old:
        return False
    believed = [old]
    for _ in made_out:
        believed += [one for one in made_out if one not in believed and any(_issued(one, by) for by in believed)]
    if not _issued(new, new) or not any(one.public_key() == new.public_key() for one in believed):
        raise PolicyError(
            f"{path}: this authority did not vouch for the one that was sent. Nothing was changed.",
            "Ask the coordinator, by telephone for instance, for its ca.crt, and put it there yourself.",
        )
    replace_file(path, new.public_bytes(Encoding.PEM), private=True)
    return True


def _issued(certificate: x509.Certificate, by: x509.Certificate) -> bool:
    """Whether an authority, which both must be, signed a certificate."""
    try:
        both = all(one.extensions.get_extension_for_class(x509.BasicConstraints).value.ca for one in (certificate, by))
        certificate.verify_directly_issued_by(by)
    except (x509.ExtensionNotFound, InvalidSignature, ValueError, TypeError):
        return False
    return both
