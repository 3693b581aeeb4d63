"""The libraries that read scans: an extra, and kept from talking."""

from __future__ import annotations

import importlib
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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


_LOGGERS = ("pydicom", "pylibjpeg", "openjpeg", "rle", "nibabel")
_lock = threading.Lock()
_inside = 0
_undo = ExitStack()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries from warning and logging: what they quote may be a patient's.

    Threads share Python's filters, so the first that comes in sets them and the last that leaves puts them back.
    """
    global _inside
    with _lock:
        _inside += 1
        if _inside == 1:
            _silence(_undo)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _undo.close()


def _silence(undo: ExitStack) -> None:
    undo.enter_context(warnings.catch_warnings())
    warnings.simplefilter("ignore")
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        undo.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.CRITICAL + 1)  # the level is handed down to the loggers below
    pydicom = sys.modules.get("pydicom")
    if pydicom is not None:
        # It warns of values that break the rules by quoting them, and another thread may have its own filters just now.
        settings = pydicom.config.settings
        undo.callback(setattr, settings, "reading_validation_mode", settings.reading_validation_mode)
        settings.reading_validation_mode = pydicom.config.IGNORE


def silence_gdcm() -> None:
    """GDCM writes what it thinks of a file to the error stream, from C++."""
    try:
        gdcm = importlib.import_module("gdcm")
    except ImportError:
        return
    for name in ("DebugOff", "WarningOff", "ErrorOff"):
        getattr(gdcm.Trace, name)()
