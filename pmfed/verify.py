"""`pmfed verify`: whether a run is what its coordinator and its sites signed. Offline; anybody can do it.

A coordinator signs one small document, ``manifest.json``: the SHA-256 of every file of the run. Each site signed its receipt.
What both say must fit the study: the same fingerprint everywhere, the charges those of the study's plan, every
epsilon the one that is computed here anew.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError
from safetensors import SafetensorError

from pmfed.errors import PmfedError, UsageError, VerificationError
from pmfed.methods import method_class, plan_for
from pmfed.plain import plain
from pmfed.privacy.accounting import epsilon
from pmfed.privacy.plan import PrivacyPlan
from pmfed.secagg.keys import Identity, verify
from pmfed.secagg.replaced_keys import CHAIN, Succession, followed, read_chain
from pmfed.secagg.roster import Key, Roster
from pmfed.study import Study
from pmfed.validate import Frozen
from pmfed.wire import Fingerprint, RunId

MANIFEST = "manifest.json"
UNSIGNED = ("checkpoints",)  # the coordinator's own, of no use to others
MAX_BYTES = 1 << 22  # of a manifest or a receipt
CLOSE = 1e-6  # of two epsilons computed by the same formula on two machines
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Manifest(Frozen):
    """What a coordinator signs of a run.

    Parameters
    ----------
    run, study
        The run's id, and the fingerprint of its study.
    files
        SHA-256 of each file, by its path below the run's folder.
    key
        The public half of the key that signed it (Ed25519, RFC 8032, hex).
    """

    what: Literal["pmfed run"] = "pmfed run"
    version: Literal[1] = 1
    run: RunId
    study: Fingerprint
    files: dict[str, Digest]
    key: Key


@dataclass
class Verified:
    """What `check_run` found.

    Attributes
    ----------
    manifest
        What the coordinator signed.
    epsilons
        By site, the epsilon of its receipt, computed anew from its charges; at ``delta``.
    wrong
        What does not fit, a sentence each; empty: the run is what was signed.
    notes
        What a reader should know all the same: keys nobody vouched for, sites that left without a receipt.
    """

    manifest: Manifest
    epsilons: dict[str, tuple[float, float]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def seal(run: Path, study: Study, number: str, identity: Identity) -> None:
    """Sign a finished run: write RUN/manifest.json over every file that is there, checkpoints excepted."""
    told = {"what": "pmfed run", "version": 1, "run": number, "study": study.fingerprint(), "files": _digests(run)}
    beside = run / f"{MANIFEST}.new"
    beside.write_text(identity.signed(told) + "\n", encoding="utf-8")
    beside.replace(run / MANIFEST)


def check_run(run: Path, roster: Roster | None = None, coordinator: str | None = None) -> Verified:
    """Check a run against what was signed.

    Parameters
    ----------
    run
        The folder of a finished run.
    roster
        The sites' keys, as a site pinned them; without it those that the coordinator signed along.
    coordinator
        The coordinator's public key (hex), as it was handed out; without it any key will do, and a note says which it was.

    Raises
    ------
    VerificationError
        There is no manifest to check against, or it is none.

    Guarantee
    ---------
    Nothing of the run is executed or believed before its hash fits: files are JSON, TOML and safetensors.
    """
    manifest = read_manifest(run)
    found = Verified(manifest)
    if coordinator is None:
        found.notes.append(f"signed with the key {manifest.key}; compare it with the coordinator's (--coordinator)")
    elif coordinator != manifest.key and manifest.key in followed(coordinator, _successions(run)):
        found.notes.append(f"signed with the key {manifest.key}, which the coordinator's key that was given named")
    elif coordinator != manifest.key:
        found.wrong.append(f"{MANIFEST}: was signed with the key {manifest.key}, not with the coordinator's")
    found.wrong += _files(run, manifest)
    if found.wrong:
        return found  # what is in files that were changed says nothing
    try:
        _contents(run, found, roster)
    except (PmfedError, OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        said = error.what if isinstance(error, PmfedError) else type(error).__name__
        found.wrong.append(f"the run cannot be read, though it is what was signed: {said}")
    return found


def read_manifest(run: Path) -> Manifest:
    """Return the manifest of a run whose own signature fits; VerificationError when there is none."""
    path = run / MANIFEST
    if not path.is_file():
        if not (run / "result.json").is_file():
            raise UsageError(f"{run}: is not the folder of a finished run.", "Check the path.")
        raise VerificationError(
            f"{run}: is not signed.",
            "A simulation signs nothing: whoever runs it holds all the keys. A run of 'pmfed coordinator run' is signed "
            "at its end; if that was missed: pmfed coordinator resume RUN",
        )
    try:
        return Manifest.model_validate(verify(path.read_bytes()[:MAX_BYTES].decode()))
    except (ValidationError, ValueError):
        raise VerificationError(
            f"{path}: the signature does not fit.",
            "It was changed after it was signed. Ask the coordinator for the run.",
        ) from None


def _successions(run: Path) -> tuple[Succession, ...]:
    """Return what is told of the coordinator's keys; it vouches for itself, by the signatures in it."""
    try:
        return read_chain(run / CHAIN)
    except (OSError, ValidationError):
        return ()


def _digests(run: Path) -> dict[str, str]:
    found = {}
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        if (
            name in (MANIFEST, f"{MANIFEST}.new")
            or name.split("/")[0] in UNSIGNED
            or (path.is_dir() and not path.is_symlink())
        ):
            continue
        if not path.is_file():  # a pipe would never end, a link may lead to a folder or to nothing
            found[name] = "no file"
            continue
        with path.open("rb") as file:
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _files(run: Path, manifest: Manifest) -> Iterator[str]:
    there = _digests(run)
    for name in sorted(set(manifest.files) | set(there)):
        if name not in there:
            yield f"{name}: is missing"
        elif name not in manifest.files:
            yield f"{name}: was not signed"
        elif there[name] != manifest.files[name]:
            yield f"{name}: is not the file that was signed"


def _contents(run: Path, found: Verified, roster: Roster | None) -> None:
    study = Study.read(run / "study.toml")
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    method = method_class(study.method.kind)
    about = {"study.toml": study.fingerprint(), "result.json": result["fingerprint"], **method.fingerprints(run)}
    for name, fingerprint in about.items():
        if fingerprint != found.manifest.study:
            found.wrong.append(f"{name}: belongs to another study than {found.manifest.study[:12]}, which was signed")
    named = {str(site["name"]) for site in result["sites"]}
    plan = plan_for(study, len(named))
    if not found.wrong:
        found.wrong += method.wrong(run, study, plan, result)
    found.notes += method.notes(run)
    found.wrong += _told(study, plan, result["privacy"])
    found.wrong += _told_of_own(study, plan, result.get("personal"))
    if result["privacy"]["insecure"]:
        found.notes.append("INSECURE: noise came from a seed at some site; nobody was protected")
    if roster is None and (run / "roster.json").exists():
        roster = Roster.read(run / "roster.json")
        found.notes.append("the sites' keys are those the coordinator signed; compare with a site's own (--roster)")
    elif roster is None:
        found.notes.append("there is no roster to compare the sites' keys with (--roster)")
    signed = set()
    for path in sorted((run / "receipts").glob("*.json")):
        signed.add(path.stem)
        found.wrong += _receipt(path, found, study, plan, result["privacy"], roster)
    found.wrong += [f"receipts/{site}.json: '{site}' took no part, says result.json" for site in sorted(signed - named)]
    for site in sorted(named - signed):
        if site in result.get("left", {}):
            found.notes.append(f"{site}: left the run and sent no receipt, so nothing shows what it charged")
        else:
            found.wrong.append(f"receipts/{site}.json: is missing, and '{site}' did not leave, says result.json")


def _told(study: Study, plan: PrivacyPlan, privacy: Mapping[str, Any]) -> Iterator[str]:
    """Compare what result.json says of the mechanisms with the study's own plan."""
    main = plan.main
    for name, value in (
        ("unit", plan.unit), ("mechanism", study.mechanism), ("delta", plan.delta), ("colluders", plan.colluders),
        ("sampling_rate", main.sampling_rate), ("clip", main.bound if math.isfinite(main.bound) else None),
        ("noise_multiplier", main.noise_multiplier), ("evaluation_release", study.evaluation.release),
    ):  # fmt: skip
        if not _same(privacy[name], value):
            yield f"result.json: privacy.{name} is {privacy[name]!r}; by the study it is {value!r}"
    steps = int(privacy["steps"])
    if not 0 <= steps <= main.times:
        yield f"result.json: {steps} steps; the study allows {main.times}"
    elif abs(float(privacy["epsilon"]) - plan.epsilon({main.query: steps})) > 1e-3:  # as it is rounded, and a little
        yield f"result.json: privacy.epsilon is {privacy['epsilon']}; computed anew {plan.epsilon({main.query: steps}):.4f}"


def _told_of_own(study: Study, plan: PrivacyPlan, personal: Mapping[str, Any] | None) -> Iterator[str]:
    """Compare what result.json says of the sites' own models with the study."""
    if (personal is None) != (study.personal is None):
        yield "result.json: has figures of the sites' own models, or should have, unlike in the study"
    if personal is None or study.personal is None:
        return
    if personal["method"] != study.personal.method:
        yield f"result.json: personal.method is {personal['method']!r}; by the study it is {study.personal.method!r}"
    value = epsilon([plan["personal"].release()], plan.delta) if "personal" in plan else None
    if (value is None) != (personal["epsilon"] is None) or abs(float(personal["epsilon"] or 0) - (value or 0)) > 1e-3:
        yield f"result.json: personal.epsilon is {personal['epsilon']}; computed anew {value}"


def _receipt(
    path: Path, found: Verified, study: Study, plan: PrivacyPlan, privacy: Mapping[str, Any], roster: Roster | None
) -> Iterator[str]:
    """Check one site's receipt: its signature, whose and of what it is, and what was charged."""
    site, where = path.stem, f"receipts/{path.name}"
    try:
        told = verify(path.read_bytes()[:MAX_BYTES].decode())
    except ValueError:
        yield f"{where}: the site's signature does not fit"
        return
    if roster is not None and roster.keys.get(site) != told["key"]:
        yield f"{where}: was not signed with the key that the roster has for '{site}'"
    if told["site"] != site:
        yield f"{where}: is of another site, '{told['site']}'"
    if told["run"] != found.manifest.run or told["study"] != found.manifest.study:
        yield f"{where}: is of another run or study"
    if told["finished"] is not True:
        yield f"{where}: the site had not closed the run in its ledger"
    yield from _charged(where, told, plan, privacy)
    spent = privacy["spent"].get(site)
    if spent is None or abs(spent["epsilon"] - told["epsilon"]) > 1e-3 or not _same(spent["delta"], told["delta"]):
        yield f"result.json: says something else of '{site}' than its receipt"
    found.epsilons[site] = float(told["epsilon"]), float(told["delta"])


def _charged(where: str, told: Mapping[str, Any], plan: PrivacyPlan, privacy: Mapping[str, Any]) -> Iterator[str]:
    """Compare a receipt's charges with the plan, and its epsilons with what they come to."""
    known = {one.query: one for one in plan.mechanisms}
    counted = {str(what): int(count) for what, count in told["charges"].items()}
    if strange := sorted(set(counted) ^ set(known)):
        yield f"{where}: {', '.join(strange)} is charged, or should be, unlike in the study"
        return
    for what, count in counted.items():
        if not 0 <= count <= known[what].times:
            yield f"{where}: {count} times '{what}' is charged; the study allows {known[what].times}"
    main = plan.main.query
    if counted[main] > int(privacy["steps"]):
        yield f"{where}: {counted[main]} times '{main}' was charged; result.json accounts for {privacy['steps']}"
    expected: dict[str, float] = dict.fromkeys({one.role for one in known.values()}, 0.0)
    for role in expected:
        releases = [
            one.release(counted[what]) for what, one in known.items() if "all" in (role, one.role) or one.role == role
        ]
        expected[role] = epsilon(releases, float(told["delta"])) if releases else 0.0
    said = {str(cohort).partition(":")[0]: float(value) for cohort, value in told["cohorts"].items()}
    if set(said) != set(expected) or any(abs(said[role] - expected[role]) > CLOSE * (1 + said[role]) for role in said):
        shown = ", ".join(f"{role} {value:.4f}" for role, value in sorted(expected.items()))
        yield f"{where}: its epsilons are not what its charges come to ({shown})"
    elif not _same(told["epsilon"], max(said.values())):
        yield f"{where}: its epsilon is not the largest of its cohorts'"


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=CLOSE)
    return bool(one == other)


def show_verified(run: Path, found: Verified) -> None:
    """Print what was found; VerificationError, listing it, when something does not fit.

    Raises
    ------
    VerificationError
        Something does not fit.
    """
    for note in found.notes:
        print(f"note  {plain(note)}")
    if found.wrong:
        raise VerificationError(
            f"{run}: is not what was signed.\n" + "\n".join(f"  {plain(one)}" for one in found.wrong),
            "Do not use it. Ask the coordinator for the run, and the sites for what their ledgers say.",
        )
    print(
        f"run {found.manifest.run} of the study {found.manifest.study[:12]}: {len(found.manifest.files)} files as signed"
    )
    for site, (spent, delta) in sorted(found.epsilons.items()):
        print(f"  {plain(site):<24} receipt fits: epsilon {spent:.4f} at delta {delta:g}")
    print("verified: signatures, files, study, charges and epsilon fit together.")
