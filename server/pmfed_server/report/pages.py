"""The templates of the reports, read once: every page has one style and loads nothing."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def page_of(template: str, content: dict[str, Any]) -> bytes:
    """Return a page: a template of this folder filled with text, which it escapes, and drawings."""
    return _templates().get_template(template).render(**content).encode()


@cache
def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
