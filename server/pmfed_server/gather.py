"""The coordinator puts the sites' cards together into a roster. Sites believe it only after comparing fingerprints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from pmfed.card import SiteCard
from pmfed.errors import UsageError
from pmfed.secagg.roster import MAX_BYTES, Roster


def gather_cards(paths: Sequence[Path]) -> Roster:
    """Return the roster of some cards.

    Raises
    ------
    UsageError
        A file is no card, there are fewer than two, or two share a name or a key.
    """
    keys: dict[str, str] = {}
    for path in paths:
        card = read_card(path)
        if card.site in keys:
            raise UsageError(f"{path}: there is another card of '{card.site}'.", "Each site has one card.")
        keys[card.site] = card.key
    try:
        return Roster.of(keys)
    except ValidationError as error:
        said = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UsageError(f"these cards make no roster: {said}.", "Name the cards of all sites, at least two.") from None


def read_card(path: Path) -> SiteCard:
    """Return the card in a file; UsageError when it is none."""
    try:
        return SiteCard.model_validate_json(path.read_bytes()[:MAX_BYTES], strict=True)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}).") from None
    except ValidationError:
        raise UsageError(f"{path}: is not a site's card.", "A site prints its own: pmfed site card") from None
