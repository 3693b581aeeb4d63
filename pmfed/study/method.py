"""``[method]``: how something is learned from sums over patients."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

from pydantic import Field, SerializeAsAny, WrapValidator, field_validator

from pmfed import plugins
from pmfed.validate import Frozen


class GradientMethod(Frozen):
    """``kind = "gradient"``: a model trained by private gradients, as ``[training]`` and ``[model]`` say."""

    kind: Literal["gradient"] = "gradient"

    unused: ClassVar[tuple[str, ...]] = ()
    """Sections of a study that the method makes no use of."""

    def misfit(self, given: Collection[str]) -> str:
        """Return why a study with these sections cannot use the method; empty when it can."""
        missing = next((name for name in ("outcome", "training") if name not in given), "")
        return f"{missing}: method 'gradient' needs this section" if missing else ""


class TablesMethod(Frozen):
    """``kind = "tables"``: counts, means, quantiles, missingness and survival of a cohort, in one noised release.

    ``stratum`` splits every table by the values of one categorical feature, ``MODALITY.FEATURE``, or by the classes of the
    ``outcome``. A number is counted in ``bins`` of equal width between its public bounds (of its logarithm where it has
    one), or between the ``edges`` that are given for it, by ``MODALITY.FEATURE`` or ``outcome``: quantiles are as fine as that.
    """

    unused: ClassVar[tuple[str, ...]] = ("training", "model", "personal", "recalibration")
    """Sections of a study that the method makes no use of."""

    kind: Literal["tables"]
    stratum: str | None = None
    bins: Annotated[int, Field(ge=2, le=200)] = 20
    edges: dict[str, Annotated[tuple[float, ...], Field(min_length=1, max_length=200)]] = Field(default_factory=dict)

    @field_validator("edges")
    @classmethod
    def _ascend(cls, edges: dict[str, tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
        for name, values in edges.items():
            if any(low >= high for low, high in pairwise(values)):
                raise ValueError(f"the edges of '{name}' must ascend")
        return edges

    def misfit(self, given: Collection[str]) -> str:
        """Return why a study with these sections cannot use the method; empty when it can."""
        extra = next((name for name in self.unused if name in given), "")
        return f"{extra}: method 'tables' trains nothing; leave this section out" if extra else ""


class PluginMethod(Frozen):
    """The keys of a method of an installed package (`pmfed.plugins`); ``kind`` is the entry point's name. It trains no model."""

    unused: ClassVar[tuple[str, ...]] = ("training", "model", "personal")
    """Sections of a study that the method makes no use of."""

    kind: str

    def misfit(self, given: Collection[str]) -> str:
        """Return why a study with these sections cannot use the method; empty when it can."""
        extra = next((name for name in PluginMethod.unused if name in given), "")
        return f"{extra}: method '{self.kind}' trains nothing; leave this section out" if extra else ""


_Own = Annotated[GradientMethod | TablesMethod, Field(discriminator="kind")]
KINDS = ("gradient", "tables")
"""What ``kind`` may be wherever pmfed is installed."""


MethodSpec = Annotated[
    SerializeAsAny[_Own], WrapValidator(plugins.reader_of("methods", PluginMethod, attribute="keys"))
]
"""A method in a study: of pmfed, or of a plug-in that was loaded for it."""
