"""A site's folder: `pmfed site init` makes it, with keys that never leave it."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import TypeAdapter, ValidationError

from pmfed.cohort.survey import Survey, data_lines, study_lines
from pmfed.errors import UsageError
from pmfed.modality import Name
from pmfed.secagg.keys import Identity
from pmfed_client.site.site import FILE, Site

DRAFT = "draft-study.toml"
"""What a survey of a site's data proposes to ask of it; to be edited."""

TEMPLATE = """\
# What this hospital's site is called, where its data lies and what it allows: see docs/site.md.

[site]
name = "{name}"
title = ""

# Source name -> table or folder; the names are those a study uses. Paths are relative to this file, or whole.
[data]
{data}

# The coordinator this site connects to, outward only. Take both from the coordinator; ca.crt lies beside this file.
# [coordinator]
# address = "coordinator.example.org:9092"
# certificate = "ca.crt"

# What this hospital allows. Without these lines the site takes part in nothing. epsilon is the total of every
# patient, over all studies and for ever: settle it with your data protection officer, then take the '#' away.
# [policy]
# min_patients = 20
# epsilon = 3.0
# delta = 1e-5
# study_epsilon = 1.0                 # at most so much of it for any one study
# idle_days = 3                       # a run that asks for nothing for so long is over here
# modalities = ["table"]              # only studies of these kinds of data
# hours = "20:00-06:00"               # compute only then,
# time_zone = "Europe/Berlin"         # by this clock
"""


def make_home(folder: Path, name: str, found: Survey | None = None) -> Site:
    """Make a site's folder: site.toml, identity key, node key, folders; all for its owner alone.

    Parameters
    ----------
    folder, name
        Where, and what the site is called.
    found
        What a survey of its data found: proposed as ``[data]``, and as a study in `DRAFT`.

    Raises
    ------
    UsageError
        The folder is not empty, or the name is none.
    """
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise UsageError(
            f"'{name}' is no name for a site.",
            "1 to 48 small letters, digits, '-' or '_', beginning with a letter or digit.",
        ) from None
    folder = folder.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: exists and is not empty.", "Choose another folder; nothing is overwritten.")
    folder.mkdir(parents=True, exist_ok=True)
    os.chmod(folder, 0o700)
    data = "\n".join(data_lines(found) if found else ['# patients = "patients.csv"'])
    write_private(folder / FILE, TEMPLATE.format(name=name, data=data).encode())
    if found is not None:
        write_private(folder / DRAFT, "\n".join([*study_lines(found, name), ""]).encode())
    site = Site.read(folder)
    for inner in (site.approved, site.courier):
        inner.mkdir(mode=0o700)
    Identity.at(site.identity)
    make_node_key(site)
    return site


def make_node_key(site: Site) -> None:
    """Make the key of the site's Flower node (ECDSA P-384, OpenSSH format) unless it is there."""
    if site.node_key.exists():
        return
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    write_private(site.node_public, public + b"\n")
    write_private(site.node_key, private)


def write_private(path: Path, data: bytes) -> None:
    """Write a new file that only its owner may read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
