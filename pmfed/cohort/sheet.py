"""A table of the site and the file it was read from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd


@dataclass(frozen=True, repr=False)
class Sheet:
    """A table and its file; its repr shows neither."""

    path: Path
    frame: pd.DataFrame
