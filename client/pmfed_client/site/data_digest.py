"""A keyed digest of the patients a site brought to a run: whoever has the site's key can show later which data it was."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort import Cohort
from pmfed.file_io import replace_file
from pmfed_client.site.site import Site


def data_digest(cohort: Cohort, key: bytes) -> str:
    """Return HMAC-SHA-256 of everything that a run may look at, in hex.

    Parameters
    ----------
    cohort
        The patients as they were read: ids, split, inputs and outcomes.
    key
        The site's, of this run alone (`Identity.derived`).

    Guarantee
    ---------
    Without the key it is as good as a random number: no data can be tried against it, and as every run has another key,
    nobody sees whether two runs had the same patients.
    """
    found = hmac.new(key, digestmod=hashlib.sha256)

    def add(name: str, array: NDArray[Any]) -> None:
        whole = np.ascontiguousarray(array)
        found.update(f"{name} {whole.dtype.str} {whole.shape}\0".encode())
        found.update(whole.reshape(-1).view(np.uint8).data)

    for one in cohort.ids:
        told = one.encode()
        found.update(f"id {len(told)}\0".encode() + told)
    add("owner", cohort.owner)
    add("training", cohort.training)
    for name in sorted(cohort.inputs):
        add(f"inputs {name}", cohort.inputs[name])
        add(f"present {name}", cohort.present[name])
    add("targets", cohort.targets)
    return found.hexdigest()


def keep_digest(site: Site, run: str, digest: str) -> None:
    """Keep the digest of a run beside the ledger: whoever asks for a receipt twice gets the same, from another process too."""
    path = _path(site, run)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    replace_file(path, f"{digest}\n".encode(), private=True)


def kept_digest(site: Site, run: str) -> str:
    """Return the digest of a run; empty where there is none, as of a run begun by an older pmfed."""
    path = _path(site, run)
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""


def _path(site: Site, run: str) -> Path:
    return site.ledger.with_name("data-digests") / run
