"""The one validation module: TOML into frozen models, with errors that name the line."""

from __future__ import annotations

import difflib
import inspect
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from pmfed.errors import StudyError
from pmfed.plain import LONGEST, unfit


class Frozen(BaseModel):
    """A model that cannot change after it was read and refuses keys it does not know.

    Guarantee
    ---------
    No text in it, and no key of a mapping, holds anything but what shows as it is (`pmfed.plain`), or is longer than
    ``LONGEST``. What is shown to people comes out of such models; nothing that was refused is repeated in the error.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    LONGEST: ClassVar[int] = LONGEST
    """Characters of a text that has no bound of its own; more where a model holds documents."""

    @model_validator(mode="after")
    def _shows_as_it_is(self) -> Self:
        for path, text in _texts(self.__dict__):
            if why := unfit(text, self.LONGEST):
                raise ValueError(f"{'.'.join(path)}: {why}")
        return self


class Grown(Frozen):
    """A section that got keys after pmfed 0.1: ``LATER``.

    While such a key says what 0.1 did, its default, it is left out of what is written, so that studies of 0.1 keep their
    fingerprints and the approvals that hospitals gave them.
    """

    LATER: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _as_first_written(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = plain(self)
        for key in self.LATER & data.keys():
            if getattr(self, key) == type(self).model_fields[key].get_default(call_default_factory=True):
                del data[key]
        return data


Fraction = Annotated[float, Field(gt=0, le=1)]
Model = TypeVar("Model", bound=BaseModel)

_HEADER = re.compile(r"^\s*\[\[?\s*([^\]]+?)\s*\]?\]")
_KEY = re.compile(r"""^\s*((?:"[^"]*"|'[^']*'|[\w-]+)(?:\s*\.\s*(?:"[^"]*"|'[^']*'|[\w-]+))*)\s*=""")
_PART = re.compile(r""""[^"]*"|'[^']*'|[^.\s"']+""")


def read_toml(path: Path, model: type[Model]) -> Model:
    """Read a TOML file into a frozen model.

    Parameters
    ----------
    path
        The file.
    model
        The pydantic model it must fit.

    Raises
    ------
    StudyError
        The file is missing, is not TOML, or does not fit; the message names file, line and key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise StudyError(f"{path}: there is no such file.", "Check the path.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: cannot be read ({error}).") from None
    return parse_toml(text, model, str(path))


def parse_toml(text: str, model: type[Model], name: str) -> Model:
    """Read TOML text into a frozen model; ``name`` stands for the file in errors."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise StudyError(f"{name}: not valid TOML: {error}.", "TOML is described at https://toml.io.") from None
    for path, found in _texts(data):
        if why := unfit(found):  # here, where the line can be told
            line = line_of(text, path)
            raise StudyError(
                f"{name}:{line or 1}: {'.'.join(path)}: {why}.", "Write it with plain letters, on one line."
            )
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise StudyError(explain(error, model, text, name)) from None


def _texts(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield every text in nested mappings and lists, keys too, with where it is; a path holds no key that is unfit."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield path, str(key)
            yield from _texts(inner, (*path, str(key)))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner, path)


def explain(error: ValidationError, model: type[BaseModel], text: str, name: str) -> str:
    """Turn pydantic's list of complaints into lines a person can act on."""
    lines = []
    for item in error.errors():
        # A tag in angle brackets is ours: it says which of two forms was meant, and no file holds it.
        path = tuple(str(part) for part in item["loc"] if not str(part).startswith("<"))
        line = line_of(text, path)
        place = f"{name}:{line}" if line else name
        message = item["msg"].removeprefix("Value error, ")
        shown = ".".join(_keys(model, path))
        if item["type"] == "extra_forbidden":
            known = _keys_beside(model, path)
            near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.6)
            message = f"unknown key '{path[-1]}'"
            message += f"; did you mean '{near[0]}'?" if near else f"; known keys: {', '.join(sorted(known))}"
            lines.append(f"{place}: {message}")
            continue
        if item["type"] == "missing":
            message = "this key is required but missing"
        elif item["type"] == "union_tag_not_found":
            message = f"needs {item['ctx']['discriminator']}, which says what it is"
        elif path[-1:] == ("[key]",):
            message = "a name has only small letters, digits, '-' and '_', and starts with a letter or digit"
            shown = ".".join(path[:-1])
        elif not path and ": " in message and (found := line_of(text, tuple(message.split(":")[0].split(".")))):
            place = f"{name}:{found}"  # our own checks over several keys name the key first
        lines.append(f"{place}: {shown}: {message}" if shown else f"{place}: {message}")
    return "\n".join(lines)


def _keys(model: Any, path: tuple[str, ...]) -> list[str]:
    """Return the keys of a location as the file spells them: without the tags pydantic puts in for unions."""
    shown: list[str] = []
    for index, part in enumerate(path):
        is_tag = index > 0 and part in {_tag(found) for found in _models_at(model, path[:index])}
        if not is_tag:
            shown.append(part)
    return shown


def line_of(text: str, path: tuple[str, ...]) -> int:
    """Return the 1-based line of the deepest key of ``path`` that the TOML text holds, or 0."""
    best, best_depth = 0, 0
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = _parts(header.group(1))
            here = table
        elif key := _KEY.match(line):
            here = table + _parts(key.group(1))
        else:
            continue
        depth = _shared(here, path)
        if depth == len(here) and depth > best_depth:
            best, best_depth = number, depth
            inner = _inner_key(line, path[depth:])
            best_depth += inner
    return best


def _inner_key(line: str, rest: tuple[str, ...]) -> int:
    """Inline tables keep their keys on the parent's line."""
    return 1 if rest and re.search(rf"\b{re.escape(rest[-1])}\b\s*=", line) else 0


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in _PART.findall(dotted))


def _shared(here: tuple[str, ...], path: tuple[str, ...]) -> int:
    """Count how much of ``here`` appears, in order, in ``path`` (which may hold union tags in between)."""
    position = matched = 0
    for part in here:
        while position < len(path) and path[position] != part:
            position += 1
        if position == len(path):
            break
        position += 1
        matched += 1
    return matched


def _keys_beside(model: Any, path: tuple[str, ...]) -> list[str]:
    """Return the keys known at the place of the last key of ``path``, descending through the models."""
    return sorted({name for candidate in _models_at(model, path[:-1]) for name in candidate.model_fields})


def _models_at(model: Any, path: tuple[str, ...]) -> list[type[BaseModel]]:
    """Return the models that may stand at a location, descending through mappings and unions."""
    models = [model]
    for part in path:
        found: list[Any] = []
        for candidate in models:
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                field = candidate.model_fields.get(part)
                if field is not None:
                    found += _models_in(field.annotation)
                elif _tag(candidate) == part:
                    found.append(candidate)
                else:
                    found.append(candidate)  # a key of a mapping: stay among its value models
        tagged = [candidate for candidate in found if _tag(candidate) == part]
        models = tagged or found or models
    return models


def _tag(model: type[BaseModel]) -> str | None:
    for name in ("kind", "type"):
        if name in model.model_fields and isinstance(model.model_fields[name].default, str):
            return str(model.model_fields[name].default)
    return None


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        kinds = [kind for kind in annotation.__subclasses__() if inspect.isabstract(annotation)]
        return [
            annotation,
            *(found for kind in kinds for found in _models_in(kind)),
        ]  # an abstract one stands for its kinds
    return [found for inner in get_args(annotation) for found in _models_in(inner)]
