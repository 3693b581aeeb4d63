"""The page a person reads before a hospital takes part, and how that person agrees: by typing the price.

What is on the page comes partly from whoever wrote the study. Those words hold nothing but what shows as it is
(`pmfed.plain`), and are broken into lines here, behind a margin: however long they are, no terminal begins a line of its own
with them. The price is told again where nothing from outside can follow.
"""

from __future__ import annotations

import math
import os
import pwd
import textwrap
from collections.abc import Callable, Iterable

from pmfed.errors import PolicyError, UsageError
from pmfed.plain import unfit
from pmfed.study import Study

MARGIN = "  | "
NARROW = 40  # columns; nobody can read less


def page(lines: Iterable[str], columns: int) -> str:
    """Return lines broken so that a terminal with so many columns breaks none; what goes on is behind a margin."""
    width = max(columns - 1, NARROW)
    shown: list[str] = []
    for line in lines:
        indent = line[: len(line) - len(line.lstrip(" "))]
        if len(line) <= width:
            shown.append(line)
            continue
        shown += textwrap.wrap(line, width, subsequent_indent=indent + MARGIN, drop_whitespace=True)
    return "\n".join(shown)


def words_of(study: Study) -> list[str]:
    """Return what a study says of itself, as a quotation."""
    about = study.study
    said = [
        " ".join(text.split()) for text in (about.description, about.licence and f"Licence: {about.licence}") if text
    ]
    if not said:
        return []
    wrapped = (textwrap.wrap(text, 72, initial_indent=MARGIN, subsequent_indent=MARGIN) for text in said)
    return ["In the words of whoever wrote the study:", *(line for lines in wrapped for line in lines)]


def price(study: Study) -> str:
    """Return what a study costs every patient, in one line."""
    promise = study.privacy
    return f"epsilon {promise.epsilon:g} at delta {promise.delta:g}"


def price_typed(study: Study, typed: str) -> bool:
    """Whether what a person typed is the epsilon of the study, as the page shows it or in full."""
    try:
        value = float(typed.strip().removeprefix("epsilon").strip())
    except ValueError:
        return False
    epsilon = study.privacy.epsilon
    return math.isfinite(value) and value in (epsilon, float(f"{epsilon:g}"))


def agree(study: Study, ask: Callable[[str], str], tell: Callable[[str], None]) -> bool:
    """Tell the price after everything else, and return whether a person typed it; ``ask`` gets a line, ``tell`` shows one."""
    tell(f"\nAll above is what the study asks; the price, told again by this program alone:\n  {price(study)}\n")
    return price_typed(study, ask(f"To take part type the epsilon ({study.privacy.epsilon:g}); anything else refuses"))


def check_price(study: Study, told: str) -> None:
    """Return when a script names the price of the study; PolicyError when it names another."""
    if not price_typed(study, told):
        raise PolicyError(
            f"the study was not approved: its price is {price(study)}, which is not what --yes names.",
            "Nothing was changed. Read the page: pmfed site approve STUDY.toml SITE",
        )


def who(name: str = "") -> dict[str, str]:
    """Return who acts, for the audit log: the name a person gave, and the account as the system knows it.

    Raises
    ------
    UsageError
        The name holds what does not show as it is, or is too long.
    """
    if why := unfit(name, 100):
        raise UsageError(f"the name {why}.", "Write it with plain letters.")
    account = _account(os.getuid())
    behind = os.environ.get("SUDO_UID", "")
    if os.getuid() == 0 and behind.isdecimal() and behind != "0":
        account += f" for {_account(int(behind))}"
    return {"by": name or account, "account": account}


def _account(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:  # as in a container
        return f"user {number}"
