"""The one error taxonomy: what was wrong, where, and what to do about it.

Every error a person can meet is one of these. The message never holds a patient's value; counts, file
names, line numbers and column names only. ``code`` names the page in docs/errors.md, ``exit_code`` is what
the command line returns.
"""

from __future__ import annotations

from pmfed.plain import plain_lines


class PmfedError(Exception):
    """Base of all errors meant for people.

    Parameters
    ----------
    what
        What was wrong and where. Never patient data.
    remedy
        What the reader can do about it; empty when nothing sensible can be said.

    Guarantee
    ---------
    Both may quote what came from outside: they hold nothing that does not show as it is (`pmfed.plain`).
    """

    code = "PM000"
    exit_code = 1

    def __init__(self, what: str, remedy: str = "") -> None:
        self.what, self.remedy = plain_lines(what), plain_lines(remedy)
        super().__init__(self.what)

    def __str__(self) -> str:
        return f"{self.what}\n  {self.remedy}" if self.remedy else self.what

    def __reduce__(self) -> tuple[type[PmfedError], tuple[str, str]]:
        return type(self), (self.what, self.remedy)


class UsageError(PmfedError):
    """A command was called in a way that cannot work."""

    code = "PM100"
    exit_code = 2


class StudyError(PmfedError):
    """A study.toml or site.toml does not describe something that can be run."""

    code = "PM110"
    exit_code = 2


class DataError(PmfedError):
    """A site's files do not hold what the study needs."""

    code = "PM200"
    exit_code = 3


class PolicyError(PmfedError):
    """The site's policy forbids what was asked. Nothing was released."""

    code = "PM300"
    exit_code = 4


class BudgetError(PolicyError):
    """The privacy budget does not cover what was asked. Nothing was released."""

    code = "PM310"
    exit_code = 4


class ApprovalError(PolicyError):
    """The hospital has not approved this study. Nothing was released."""

    code = "PM320"
    exit_code = 4


class ClosedError(PolicyError):
    """The site is paused, or outside the hours in which it computes. Nothing was released."""

    code = "PM330"
    exit_code = 4


class LedgerError(PmfedError):
    """The privacy ledger cannot be read, written or trusted. Nothing was released."""

    code = "PM400"
    exit_code = 5


class ProtocolError(PmfedError):
    """A message is not what the protocol allows at this point. Nothing was released."""

    code = "PM500"
    exit_code = 6


class KeysError(ProtocolError):
    """A site lacks the keys of a run, which live in memory only: it must be introduced to the others anew."""

    code = "PM505"
    exit_code = 6


class RunError(PmfedError):
    """A run could not be finished."""

    code = "PM510"
    exit_code = 6


class InterruptedRunError(RunError):
    """A person stopped the run; what was charged stays charged."""

    code = "PM520"
    exit_code = 130


class AuditError(PmfedError):
    """An audit found that a build or a study does not keep its promise."""

    code = "PM600"
    exit_code = 7


class VerificationError(PmfedError):
    """A run is not what its coordinator and its sites signed."""

    code = "PM610"
    exit_code = 8


ERRORS: dict[str, type[PmfedError]] = {
    cls.code: cls
    for cls in (
        PmfedError, UsageError, StudyError, DataError, PolicyError, BudgetError, ApprovalError, ClosedError, LedgerError,
        ProtocolError, KeysError, RunError, InterruptedRunError, AuditError, VerificationError,
    )
}  # fmt: skip
