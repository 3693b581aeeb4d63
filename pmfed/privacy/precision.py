"""How finely a site multiplies. Apart from what does it, so that reading a site.toml loads no torch."""

from __future__ import annotations

from typing import Literal

Precision = Literal["float32", "bfloat16"]
"""What layers that multiply round their operands to."""
