"""Plug-ins: code of an installed package that a study names by its kinds. Nothing else looks for such code or loads it.

A package offers a kind as an entry point of one of ``GROUPS``. Only what a study names is loaded, and only when that study is read; at a
site, only what the site's policy lists (`admitting`).
"""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.util
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib.metadata import Distribution, EntryPoint, entry_points
from pathlib import Path
from typing import Any

from pmfed.errors import PmfedError, PolicyError, StudyError

GROUPS = {"methods": "method", "encoders": "encoder", "readers": "kind of modality", "outcomes": "outcome"}
"""``pmfed.GROUP`` is the name of the entry points; what one of them is called before people."""

NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?"
VERSION = r"[0-9][0-9A-Za-z.+!-]{0,40}"
PACKAGE = rf"^{NAME} {VERSION}(?: sha256:[0-9a-f]{{64}})?$"
"""How a study names a package: the distribution, its version and, where it wants these very bytes, the hash of its RECORD."""
ADMITTED = rf"^{NAME} {VERSION} sha256:[0-9a-f]{{64}}$"
"""How a policy admits one."""

_KIND = re.compile(r"[a-z0-9][a-z0-9_-]{0,47}")
_BY_INSTALLER = ("INSTALLER", "REQUESTED", "RECORD", "direct_url.json")

_ADMITTED: ContextVar[tuple[str, ...] | None] = ContextVar("admitted", default=None)
_LOADED: dict[tuple[str, str], tuple[Plugin, Any]] = {}


@dataclass(frozen=True)
class Named:
    """A kind that a study names and pmfed does not have: its group, its name, and the key of the study."""

    group: str
    kind: str
    key: str


@dataclass(frozen=True)
class Plugin:
    """A kind that an installed package adds.

    Attributes
    ----------
    group, kind
        What it is, and by which word studies name it.
    distribution, version
        The package.
    record
        SHA-256 of its RECORD, 64 hex digits, without the lines that an installer adds: the same wherever these very files are
        installed. Empty where its code is not in a RECORD, as after ``pip install -e``.
    """

    group: str
    kind: str
    distribution: str
    version: str
    record: str
    entry: EntryPoint = field(repr=False, compare=False)

    @property
    def line(self) -> str:
        """What a policy lists, and a study may."""
        return f"{self.distribution} {self.version} sha256:{self.record}"

    @property
    def words(self) -> str:
        """What it is, for people."""
        return f"{GROUPS[self.group]} '{self.kind}' of the package {self.distribution} {self.version}"


def named(study: Mapping[str, Any], own: Mapping[str, Collection[str]]) -> tuple[Named, ...]:
    """Return the kinds that a study names and that are not pmfed's own.

    Parameters
    ----------
    study
        A study as TOML or JSON hold it; it need not be valid.
    own
        By group, the kinds that pmfed has.
    """
    found = [Named(group, kind, key) for group, kind, key in _kinds(study) if kind not in own[group]]
    return tuple(dict.fromkeys(one for one in found if _KIND.fullmatch(one.kind)))


def _kinds(study: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    places = [("methods", "method", "kind", study.get("method")), ("outcomes", "outcome", "task", study.get("outcome"))]
    for name, one in _inside(study, "modalities"):
        places.append(("readers", f"modalities.{name}", "kind", one))
    for name, one in _inside(_mapping(study.get("model")), "encoders"):
        places.append(("encoders", f"model.encoders.{name}", "kind", one))
    for group, where, word, section in places:
        kind = _mapping(section).get(word)
        if isinstance(kind, str):
            yield group, kind, f"{where}.{word}"


def _canonical(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _inside(section: Mapping[str, Any], key: str) -> Iterator[tuple[str, Any]]:
    yield from _mapping(section.get(key)).items()


def find(group: str, kind: str) -> Plugin | None:
    """Return the installed plug-in of a kind, without loading it; None where there is none.

    Raises
    ------
    StudyError
        Two packages offer it.
    """
    found = {one.dist.name: one for one in entry_points(group=f"pmfed.{group}", name=kind) if one.dist is not None}
    if len(found) > 1:
        raise StudyError(
            f"the {GROUPS[group]} '{kind}' is offered by {len(found)} installed packages: {', '.join(sorted(found))}.",
            "Uninstall all but one.",
        )
    for entry in found.values():
        package = entry.dist
        assert package is not None
        name, version = _canonical(package.name), package.version
        if not re.fullmatch(NAME, name) or not re.fullmatch(VERSION, version):
            raise StudyError(
                f"the package that offers the {GROUPS[group]} '{kind}' has a name or version of no package."
            )
        return Plugin(group, kind, name, version, _record_of(package, entry), entry)
    return None


def misfit(study: Mapping[str, Any], own: Mapping[str, Collection[str]]) -> str:
    """Return why the plug-ins that a study names cannot be had here, key first; empty when they can. Nothing is loaded.

    Guarantee
    ---------
    The text is safe to show and to send: of the study it holds kinds, names of packages and versions, each checked letter by letter.
    """
    told = _mapping(study.get("study")).get("packages")
    lines = (
        [one for one in told if isinstance(one, str) and re.fullmatch(PACKAGE, one)] if isinstance(told, list) else []
    )
    for one in named(study, own):
        what, plugin = f"{one.key}: the {GROUPS[one.group]} '{one.kind}'", find(one.group, one.kind)
        if plugin is None:
            if lines:
                return f"{what} is not installed here; the study takes it from {', '.join(lines)}: {_install(lines)}"
            continue  # a slip of the pen, most likely: whoever reads that key says which kinds there are
        line = next((line for line in lines if _canonical(line.split()[0]) == plugin.distribution), None)
        if line is None:
            return (
                f"study.packages: {what.partition(': ')[2]} comes from the package {plugin.distribution} {plugin.version}, which "
                f'the study does not name: packages = ["{plugin.distribution} {plugin.version}"]'
            )
        if line.split()[1] != plugin.version:
            return f"{what} is of {plugin.distribution} {plugin.version} here, and the study asks for {line}: {_install([line])}"
        if line.split()[2:] not in ([], [f"sha256:{plugin.record}"]):
            return (
                f"{what} is of other files of {plugin.distribution} {plugin.version} here than those the study asks for"
            )
    return ""


def _install(lines: Sequence[str]) -> str:
    return "pip install " + " ".join("==".join(line.split()[:2]) for line in lines)


@contextmanager
def admitting(lines: Sequence[str]) -> Iterator[None]:
    """Within it only plug-ins that a policy lists are loaded or used.

    Guarantee
    ---------
    Of what is not listed by distribution, version and hash of its RECORD no line of code is run, and of what is listed none unless
    every file is the one that its RECORD says.
    """
    token = _ADMITTED.set(tuple(lines))
    try:
        yield
    finally:
        _ADMITTED.reset(token)


def check_admitted(plugin: Plugin, lines: Sequence[str]) -> None:
    """Return when a policy lists a plug-in and its files are those of its RECORD; else raise PolicyError."""
    if not plugin.record:
        raise PolicyError(
            f"the {plugin.words} is installed so that its code is not in its RECORD. Nothing was released.",
            "Install it as a wheel, not with 'pip install -e'.",
        )
    if plugin.line not in lines:
        others = [line for line in lines if _canonical(line.split()[0]) == plugin.distribution]
        how = f"lists {' and '.join(others)}" if others else "does not list it"
        raise PolicyError(
            f"the study uses the {plugin.words}, and [policy] plugins {how}. Nothing was released.",
            f'Where this hospital trusts its code, put into [policy]: plugins = ["{plugin.line}"]',
        )
    assert plugin.entry.dist is not None
    if changed := sum(not _intact(plugin.entry.dist, path, told) for path, told in _recorded(plugin.entry.dist)):
        raise PolicyError(
            f"{changed} file(s) of the package {plugin.distribution} {plugin.version} are not those that its RECORD says. Nothing "
            "was released.",
            f"Install it anew: pip install --force-reinstall --no-deps {plugin.distribution}=={plugin.version}",
        )


def use(study: Mapping[str, Any], own: Mapping[str, Collection[str]]) -> None:
    """Load the plug-ins that a study names.

    Raises
    ------
    ValueError
        One cannot be had here.
    PolicyError
        One is not admitted (`admitting`).
    StudyError
        One cannot be loaded.
    """
    if why := misfit(study, own):
        raise ValueError(why)
    for one in named(study, own):
        if find(one.group, one.kind) is not None:
            load(one.group, one.kind)


def load(group: str, kind: str) -> Any:
    """Return what the entry point of a kind names; see `use`."""
    plugin = find(group, kind)
    if plugin is None:
        raise StudyError(f"the {GROUPS[group]} '{kind}' is not installed here.", "Install the package that has it.")
    lines = _ADMITTED.get()
    if lines is not None:
        check_admitted(plugin, lines)
    if (group, kind) not in _LOADED:
        _LOADED[group, kind] = plugin, _loaded(plugin)
    before, found = _LOADED[group, kind]
    if before != plugin:
        raise StudyError(
            f"the package {plugin.distribution} was installed anew while this program had it loaded.", "Start it again."
        )
    return found


def loaded(group: str, kind: str) -> Any | None:
    """Return a plug-in that some study made load already; None where there is none of that kind."""
    return _LOADED[group, kind][1] if (group, kind) in _LOADED else None


def reader_of(group: str, base: type[Any], attribute: str = "") -> Callable[[Any, Callable[[Any], Any]], Any]:
    """Return what reads a section of a study as the class that a loaded plug-in gives for it, and all others as pmfed's own.

    Parameters
    ----------
    group, base
        Of the plug-in, and what its class must be made of.
    attribute
        Of what the entry point names: where the class stands; empty: the entry point names the class.
    """

    def read(value: Any, own: Callable[[Any], Any]) -> Any:
        if isinstance(value, base):
            return value
        kind = value.get("kind") if isinstance(value, dict) else None
        added = loaded(group, kind) if isinstance(kind, str) else None
        if added is None:
            return own(value)
        keys: Any = getattr(added, attribute, None) if attribute else added
        if not isinstance(keys, type) or not issubclass(keys, base):
            raise StudyError(
                f"the {GROUPS[group]} '{kind}' of a plug-in has no class below {base.__name__}.",
                "docs/extend.md says what it must be.",
            )
        section: Any = keys
        return section.model_validate(value)

    return read


def plugin_of(group: str, kind: str) -> Plugin | None:
    """Return which plug-in was loaded as a kind."""
    return _LOADED[group, kind][0] if (group, kind) in _LOADED else None


def _loaded(plugin: Plugin) -> Any:
    try:
        top = plugin.entry.module.partition(".")[0]
        spec, package = importlib.util.find_spec(top), plugin.entry.dist
        if plugin.record and package is not None:
            places = {Path(str(package.locate_file(path))).resolve() for path, _ in _recorded(package)}
            if spec is None or spec.origin is None or Path(spec.origin).resolve() not in places:
                raise StudyError(
                    f"'{top}' of the {plugin.words} would be imported from elsewhere.",
                    "Rename or remove what hides it.",
                )
        return plugin.entry.load()
    except PmfedError:
        raise
    except Exception as error:
        raise StudyError(
            f"the {plugin.words} cannot be loaded ({type(error).__name__}).",
            f"python -c 'import {plugin.entry.module}' shows why.",
        ) from error


def _recorded(package: Distribution) -> list[tuple[str, str]]:
    """Return path and hash of every file that came with a package, sorted; not of what its installer added."""
    rows = [row for row in csv.reader((package.read_text("RECORD") or "").splitlines()) if len(row) > 1]
    return sorted((path, told) for path, told, *_ in rows if not _added(path))


def _added(path: str) -> bool:
    folder, _, name = path.rpartition("/")
    by_installer = folder.endswith(".dist-info") and name in _BY_INSTALLER
    return by_installer or name.endswith(".pyc") or path.startswith("../")  # programs, written for this machine


def _record_of(package: Distribution, entry: EntryPoint) -> str:
    rows = _recorded(package)
    module = entry.module.replace(".", "/")
    if not {f"{module}.py", f"{module}/__init__.py"} & {path for path, _ in rows}:
        return ""
    return hashlib.sha256("".join(f"{path},{told}\n" for path, told in rows).encode()).hexdigest()


def _intact(package: Distribution, path: str, told: str) -> bool:
    try:
        digest = hashlib.sha256(Path(str(package.locate_file(path))).read_bytes()).digest()
    except OSError:
        return False
    return told == "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
