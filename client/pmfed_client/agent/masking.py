"""What hides a site's sums in one run: keys with the other sites and, where the study asks for it, dropout recovery."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from pmfed.errors import PolicyError
from pmfed.secagg.keys import Identity
from pmfed.secagg.masker import Masker
from pmfed.secagg.masks import Label
from pmfed.secagg.protocol import Delivery, Prepare, Survivors, read, threshold_of
from pmfed.secagg.recovery import Recovery
from pmfed.secagg.roster import Roster
from pmfed.study import Study
from pmfed.wire import Arrays, Request
from pmfed_client.site.site import Site


class Masking:
    """A site's side of secure aggregation in a run it is enrolled in.

    Parameters
    ----------
    site
        Its identity and the roster it pinned.
    study, run
        What it enrolled in.
    sites
        How many sites were asked to enrol.

    Guarantee
    ---------
    Those of `Masker` and `Recovery`. Keys live in memory: after a restart the site must be introduced anew.
    """

    def __init__(self, site: Site, study: Study, run: str, sites: int) -> None:
        dropouts = study.aggregation.dropouts
        if dropouts and sites - dropouts < threshold_of(sites):
            raise PolicyError(
                f"with {sites} sites, {threshold_of(sites)} must stay for a sum to be opened; the study's "
                f"aggregation.dropouts = {dropouts} leaves {sites - dropouts}. Nothing was released.",
                f"Tolerate fewer than a third: at most {sites - threshold_of(sites)}.",
            )
        self.study, self.sites = study, sites
        self.masker = Masker(
            Identity.at(site.identity), Roster.read(site.roster), run, study.fingerprint(), site.name,
            study.privacy.colluders + dropouts,
        )  # fmt: skip
        self.recovery = Recovery(self.masker, dropouts) if dropouts else None

    def answer(self, request: Request) -> str:
        """Answer a message that is about masks alone: keys, shares, sign, unmask."""
        if request.kind == "keys":
            self.masker.meet(request.text)
            return ""
        if self.recovery is None:
            raise PolicyError("this study has no dropout recovery. Nothing was released.")
        if request.kind == "shares":
            self.ready(request)
            return self.recovery.prepare(read(request.text, Prepare), request.roster)
        asked = read(request.text, Survivors)
        return self.recovery.vote(asked) if request.kind == "sign" else self.recovery.reveal(asked)

    def ready(self, request: Request) -> None:
        """Refuse a sum, before anything is charged for it, that would not hide this site."""
        # A quorum of those that were asked must agree, and of those a quorum stay: cards for two sites are no way round it.
        agreed = max(len(self.masker.cards), self.study.quorum(self.sites))
        self.masker.check(request.roster, self.study.quorum(agreed))
        if request.sites != len(request.roster):
            raise PolicyError("the number of sites is not that of their names. Nothing was released.")

    def hide(self, words: npt.NDArray[Any], request: Request, state: Arrays) -> None:
        """Mask a sum in place; ``state`` is what came with the request."""
        label = Label.of(request.query, request.round, request.attempt, request.roster, state)
        if self.recovery is None:
            self.masker.hide(words, label)
        else:
            self.recovery.hide(words, label, read(request.text, Delivery))
