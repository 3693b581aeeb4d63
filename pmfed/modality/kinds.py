"""The kinds of modality there are: those of pmfed, and those that an installed package adds."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import Field, SerializeAsAny, ValidatorFunctionWrapHandler, WrapValidator

from pmfed import plugins
from pmfed.modality.ehr import Events, EventSequence, Notes
from pmfed.modality.genomics import CopyNumber, Expression, Panel
from pmfed.modality.images import Images
from pmfed.modality.scans import Dicom, Nifti
from pmfed.modality.signals import Signals
from pmfed.modality.spec import Modality
from pmfed.modality.table import Genotypes, Table

_Own = Annotated[
    Table
    | Genotypes
    | Images
    | Events
    | EventSequence
    | Notes
    | Signals
    | Panel
    | CopyNumber
    | Expression
    | Dicom
    | Nifti,
    Field(discriminator="kind"),
]


def kind_of(spec: type[Modality]) -> str:
    """Return the ``kind`` by which a study names a class of modalities."""
    return str(spec.model_fields["kind"].default)


KINDS: tuple[str, ...] = tuple(sorted(kind_of(spec) for spec in get_args(get_args(_Own)[0])))
"""What ``kind`` may be wherever pmfed is installed, and what a site admits that names no kinds."""

_ADDED: dict[str, type[Modality]] = {}


def register(spec: type[Modality]) -> None:
    """Let studies name a kind of modality that pmfed does not have itself.

    Raises
    ------
    ValueError
        The kind is there already.
    """
    kind = kind_of(spec)
    if kind in KINDS or _ADDED.get(kind, spec) is not spec:
        raise ValueError(f"there is a modality of kind '{kind}' already")
    _ADDED[kind] = spec


def known_kinds() -> tuple[str, ...]:
    """Return what ``kind`` may be here, with the kinds that this program registered."""
    return tuple(sorted({*KINDS, *_ADDED}))


_of_plugin = plugins.reader_of("readers", Modality, attribute="spec")


def _any(value: Any, own: ValidatorFunctionWrapHandler) -> Any:
    """Read a modality as what its kind says; the kinds of pmfed go first."""
    if isinstance(value, Modality):
        return value
    added = _ADDED.get(str(value.get("kind"))) if isinstance(value, dict) else None
    return _of_plugin(value, own) if added is None else added.model_validate(value)


AnyModality = Annotated[SerializeAsAny[_Own], WrapValidator(_any)]
"""A modality in a study, of any of the kinds."""
