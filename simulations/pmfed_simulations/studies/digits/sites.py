"""scikit-learn's handwritten digits, dealt out to 20 sites. A toy: no patients, no natural sites."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from pmfed_simulations.site_tables import PublicSites, Sites, SiteTables

COUNT = 20


def tables(_: Path) -> Sites:
    """Yield 20 sites of about 90 images, every digit spread evenly, the same on every machine.

    Every image counts as one patient; its 8 x 8 pixels are the columns ``p00`` to ``p77``.
    """
    from sklearn.datasets import load_digits  # a second to import; other studies need none of it

    pixels, digit = load_digits(return_X_y=True)
    # Shuffle, then deal the digits like cards, one kind after the other: sizes differ by at most one.
    order = np.random.default_rng(20).permutation(len(digit))
    order = order[np.argsort(digit[order], kind="stable")]
    owner = np.empty(len(digit), dtype=int)
    owner[order] = np.arange(len(digit)) % COUNT
    columns = [f"p{row}{column}" for row in range(8) for column in range(8)]
    table = pd.DataFrame(pixels.astype(int), columns=columns)
    table.insert(0, "patient_id", [f"image-{number:04d}" for number in range(len(digit))])
    table["digit"] = digit
    for site in range(COUNT):
        yield SiteTables(
            name=f"site-{site + 1:02d}", title=f"Site {site + 1}", tables={"patients": table[owner == site]}
        )


SITES = PublicSites(tables, None, delta=3e-4)
