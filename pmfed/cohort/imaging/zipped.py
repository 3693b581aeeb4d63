"""Pictures in a zip, as `pmfed.cohort.images` reads them in a folder."""

from __future__ import annotations

from pmfed.cohort.images import read_images as read_zipped_images

__all__ = ["read_zipped_images"]
