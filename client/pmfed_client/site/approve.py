"""What a hospital agrees to, in plain words, and the note that it did.

An approval is the study itself, kept under its fingerprint in the folder ``approved``. The agent reads it again whenever
a study asks: a file that was removed, changed, or may be written by others approves nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from pmfed import plugins
from pmfed.errors import ApprovalError, PolicyError, StudyError
from pmfed.methods import method_class, plan_for, schedule
from pmfed.plain import plain
from pmfed.secagg.roster import grouped
from pmfed.study import Study
from pmfed_client.site.approval import Approval, granted, path_of
from pmfed_client.site.audit_log import AuditLog
from pmfed_client.site.consent import price, who, words_of
from pmfed_client.site.create import write_private
from pmfed_client.site.lost_values import last_check
from pmfed_client.site.site import PERSONAL, Site

SAID = 60
"""Characters of what a plug-in says of itself."""


def approve(
    site: Site, study: Study, agreed: Callable[[list[str]], bool], by: str = "", approval: Approval | None = None
) -> None:
    """Approve a study at a site; the audit log tells who did, and at what price.

    Parameters
    ----------
    site, study
        Who approves what.
    agreed
        Shown, line by line, what the study asks; says whether a person agreed.
    by
        The person's name; empty: that of the account alone.
    approval
        What is allowed, see `granted`; by default one run.

    Raises
    ------
    StudyError
        A run of this study could not work, at this site or another.
    PolicyError
        Nobody agreed; nothing was changed.
    ApprovalError
        The last check found that more than half of a feature is lost, and nobody accepted it.
    DataError
        It was never checked here, and the check that is made now finds that the sources do not hold what it needs.
    """
    # Here, because it loads torch, which the agent's own look at approvals does without.
    from pmfed_client.agent.dry_step import dry_step

    person = who(by)
    site.policy.admit_plugins(study)
    if last_check(site, study) is None:
        from pmfed_client.site.check import check  # which reads patients: most who approve have done so before

        check(site, study)
    left, accepted = last_check(site, study) or ([], [])
    if left:
        raise ApprovalError(
            "the last check of this study at this site left open: " + " ".join(left),
            f"Mend or accept it, then: pmfed site check STUDY.toml {site.folder}",
        )
    dry_step(study)
    approval = approval or granted(site, study)
    lines = [*terms(site, study), *_prospect(study), *_losses(accepted), "", *approval.words(site.policy.delta)]
    if not agreed(lines):
        raise PolicyError("the study was not approved.", "Nothing was changed; this site will not take part in it.")
    site.approved.mkdir(mode=0o700, exist_ok=True)
    path = site.approved / f"{study.fingerprint()}.toml"
    allows = path_of(site, study.fingerprint())
    for old in (allows, path):
        old.unlink(missing_ok=True)
    write_private(allows, approval.model_dump_json().encode())
    write_private(path, study.to_toml().encode())
    AuditLog(site.audit_log).add("approve", study=study.fingerprint(), price=price(study), **person)


def withdraw(site: Site, study: Study, by: str = "") -> None:
    """Take an approval back; ApprovalError when there was none."""
    path = site.approved / f"{study.fingerprint()}.toml"
    if not path.exists():
        raise ApprovalError(f"{path}: this study was not approved.", "There is nothing to take back.")
    path.unlink()
    path_of(site, study.fingerprint()).unlink(missing_ok=True)
    AuditLog(site.audit_log).add("withdraw", study=study.fingerprint(), **who(by))


def read_study(site: Site, path: Path) -> Study:
    """Read a study at a site: of plug-ins that the site's policy does not list, nothing is loaded.

    Raises
    ------
    StudyError
        The file does not fit, or a plug-in is not installed here.
    PolicyError
        The policy does not admit a plug-in; the remedy is the line that would.
    """
    with plugins.admitting(site.policy.plugins):
        return Study.read(path)


def check_approved(site: Site, fingerprint: str) -> None:
    """Return when the hospital approved the study with this fingerprint; else raise ApprovalError."""
    path = site.approved / f"{fingerprint}.toml"
    what = f"this hospital has not approved the study {fingerprint[:12]}. Nothing was released."
    remedy = f"Read what it asks, then: pmfed site approve STUDY.toml {site.folder}"
    try:
        written_by_others = path.stat().st_mode & 0o022
        same = read_study(site, path).fingerprint() == fingerprint
    except (OSError, StudyError):
        raise ApprovalError(what, remedy) from None
    if written_by_others or not same:
        raise ApprovalError(what, f"{path}: was changed, or others may write it. Approve the study again.")


def terms(site: Site, study: Study) -> Iterator[str]:
    """Yield, in plain words, what a study would learn, from what, at what price, and what would leave the hospital."""
    outcome, privacy = study.outcome, study.privacy
    yield f"Study             {' '.join(study.study.title.split())} ({study.study.name})"
    yield from words_of(study)
    yield ""
    who = f"every patient in {_place(site, study.cohort.table)}"
    if method_class(study.method.kind).predicts:
        yield f"What is learned   a model that predicts '{outcome.name}' ({_meaning(study)}) of a patient"
        yield f"Who               {who}; some are held out for testing"
    else:
        yield f"What is learned   {' and '.join(query.label for query in schedule(study))} of these patients, no model"
        yield f"Who               {who}"
    yield "From what"
    for name, modality in sorted(study.modalities.items()):
        columns = [plain(one, SAID) for one in study.inputs.get(name, ())]
        held = f": {', '.join(columns)}" if columns else ""
        yield f"  {name} ({modality.kind}) in {', '.join(_place(site, one) for one in modality.sources)}{held}"
        if name in study.public_weights:
            yield f"    through {study.public_weights[name]}: public, and nothing of it is trained"
    yield ""
    if study.plug_ins:
        yield "Code of packages that this hospital installed, and that its policy admits"
        for plugin in study.plug_ins:
            yield f"  {plugin.words}, sha256 {grouped(plugin.record)}" if plugin.record else f"  {plugin.words}"
        yield ""
    yield "What leaves this hospital; of what is under a mask the coordinator can read only the sum over all sites"
    for query in schedule(study):
        yield f"  {query.leaves()}"
        if query.by_site:
            yield "  this site's own part of it, readable by itself"
    yield "  a signed receipt of what was charged, with a digest of the data that only this site can check; version and name of this"
    yield "  site; times and sizes of its messages"
    yield "What never leaves  patient ids, values, images, counts of patients, anything of one patient alone"
    if study.parts:
        yield f"                  and the model's {study.parts.method}, which this site keeps in {PERSONAL}/"
    if study.tuned:
        yield f"                  and a model of this site's own ({study.tuned.method}), kept in {PERSONAL}/"
    yield ""
    yield f"Protected         {_protected(study)}"
    yield f"Price             {price(study)}, with {privacy.colluders} other sites"
    yield "                  working against this one"
    allowed, delta = site.policy.budget
    if allowed > 0:
        yield f"This site allows  epsilon {allowed:g} at delta {delta:g} in total; see: pmfed site ledger show"
    else:
        yield "This site allows  nothing: it has no [policy] in site.toml, and will refuse whatever is approved"
    yield ""
    yield f"fingerprint  {grouped(study.fingerprint())}"


def _meaning(study: Study) -> str:
    """Return what a model says of a patient; the words of a plug-in are short, plain and in quotation marks."""
    if any(one.group == "outcomes" for one in study.plug_ins):
        return f"which its package calls '{plain(study.outcome.meaning, SAID).replace(chr(39), '’')}'"
    return study.outcome.meaning


def _prospect(study: Study) -> list[str]:
    """Return what speaks against the study's learning anything, from its public numbers; none where nothing does."""
    if not method_class(study.method.kind).predicts:
        return []
    from pmfed.methods.power import power

    doubt = power(study, plan_for(study, study.fewest_sites + 1)).verdict()
    return ["", f"Will it learn     {doubt}"] if doubt else []


def _losses(accepted: list[str]) -> list[str]:
    """Return what this site accepted of values that are lost."""
    return [
        "",
        f"Lost here         {'' if accepted else 'nothing that had to be accepted'}",
        *(f"  {one}" for one in accepted),
    ]


def _place(site: Site, source: str) -> str:
    path = site.sources.get(source)
    if path is None:
        return f"'{source}' (not in this site's [data])"
    shown = os.path.relpath(path, site.folder)
    return f"'{source}' ({path if shown.startswith('..') else shown})"


def _protected(study: Study) -> str:
    if study.privacy.unit == "record":
        return "a whole record, which is weaker"
    if thing := study.cohort.stand_in:
        return f"one {thing}, in data without patient ids: a person with several is protected less"
    return "a whole patient"
