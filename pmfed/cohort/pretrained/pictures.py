"""Pictures listed in a table, each through the public network once; what it made of them is kept by content."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pmfed.cohort.block import Block
from pmfed.cohort.images import read_pictures
from pmfed.cohort.imaging.places import Places
from pmfed.cohort.tables import Problems
from pmfed.modality import Images


def read_features(
    spec: Images, files: Sequence[str], source: Path, path: Path, problems: Problems, places: Places
) -> Block:
    """Read the features (R, F) of every record's picture: `read_pictures` with the network in ``places``."""
    assert places.backbone is not None
    return read_pictures(spec, files, source, path, problems, places=places)
