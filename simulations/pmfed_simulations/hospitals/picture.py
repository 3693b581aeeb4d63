"""Pictures of a lesion: a bright, slightly elliptic disc, larger and brighter where the burden is larger.

Place, shape and texture say nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.special import expit

from pmfed_simulations.hospitals.model import Bools, Floats


class Scene(NamedTuple):
    """How pictures are composed; lengths in pixels."""

    side: int
    centre: tuple[float, float]  # between which the disc's middle lies
    stretch: tuple[float, float]  # of one axis; the other shrinks, so the area stays
    radius: float  # at burden 0
    growth: float  # of the radius, per unit of burden
    edge: float  # how far the disc fades out
    smooth: float  # of the texture
    texture: float  # its weight; what is smoothed more varies less


def draw_pictures(
    burden: Floats,
    lesion: Bools,
    scene: Scene,
    *,
    brightness: float,
    contrast: float,
    noise: float,
    rng: np.random.Generator,
) -> Floats:
    """Draw one picture per burden as a hospital's scanner sees it.

    Parameters
    ----------
    burden, lesion
        (n,): the burden, and whether there is a disc at all.
    scene
        What the pictures are composed of.
    brightness, contrast, noise
        Of the scanner: the background, 0..1, what the scene is multiplied by, and the standard deviation of the noise.
    rng
        Of all draws.

    Returns
    -------
    ndarray
        (n, side, side), 0 (black) to 1 (white).
    """
    n, s, shape = len(burden), burden[:, None, None], (len(burden), scene.side, scene.side)
    y, x = np.mgrid[: scene.side, : scene.side].astype(np.float64)
    centre = rng.uniform(*scene.centre, (2, n, 1, 1))
    angle = rng.uniform(0, np.pi, (n, 1, 1))
    stretch = rng.uniform(*scene.stretch, (n, 1, 1))
    along = (x - centre[0]) * np.cos(angle) + (y - centre[1]) * np.sin(angle)
    across = (y - centre[1]) * np.cos(angle) - (x - centre[0]) * np.sin(angle)
    distance = np.hypot(along / stretch, across * stretch)
    disc = expit((scene.radius + scene.growth * s - distance) / scene.edge) * lesion[:, None, None]
    texture: NDArray[np.float64] = scene.texture * gaussian_filter(
        rng.normal(size=shape), (0, scene.smooth, scene.smooth)
    )
    clean = texture + disc * (0.35 + 0.06 * s + 0.03 * rng.normal(size=(n, 1, 1)))
    shown: Floats = np.clip(brightness + contrast * clean + noise * rng.normal(size=shape), 0, 1)
    return shown
