"""The libraries that read scans: an extra, and kept from talking."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from pmfed.errors import DataError


def require(name: str) -> ModuleType:
    """Import a library of the extra ``imaging``.

    Raises
    ------
    DataError
        It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.split(".")[0]
        raise DataError(f"reading scans needs the package '{package}'.", "pip install 'pmfed[imaging]'") from None


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries from warning and logging: what they quote may be a patient's."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "pylibjpeg", "openjpeg", "rle", "nibabel")]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)  # the level is handed down to the loggers below
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)


def silence_gdcm() -> None:
    """GDCM writes what it thinks of a file to the error stream, from C++."""
    try:
        gdcm = importlib.import_module("gdcm")
    except ImportError:
        return
    for name in ("DebugOff", "WarningOff", "ErrorOff"):
        getattr(gdcm.Trace, name)()
