"""``[personal]``: what every hospital has of its own, beside or within the common model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from pmfed.validate import Frozen

Share = Annotated[float, Field(gt=0, lt=1)]


class FineTune(Frozen):
    """``method = "fine-tune"``: after the last round each site takes ``steps`` private steps from the common model.

    ``share`` is the part of ``privacy.epsilon`` that these steps spend by themselves.
    """

    method: Literal["fine-tune"]
    steps: PositiveInt
    learning_rate: PositiveFloat
    share: Share

    def over(self, rounds: int) -> int:
        """Return how many steps a site takes over a run of so many rounds."""
        return self.steps


class Ditto(Frozen):
    """``method = "ditto"``: beside every round each site takes ``steps`` private steps with a model of its own.

    It is pulled towards the common model by ``proximal / 2 |v - w|^2`` (Li, Hu, Beirami, Smith 2021). ``share`` is the
    part of ``privacy.epsilon`` that the steps of all rounds spend by themselves.
    """

    method: Literal["ditto"]
    steps: PositiveInt = 1
    learning_rate: PositiveFloat
    proximal: PositiveFloat
    share: Share

    @model_validator(mode="after")
    def _pulls_gently(self) -> Ditto:
        if self.proximal * self.learning_rate >= 1:
            raise ValueError(
                "'proximal' times 'learning_rate' must be below 1, or a step goes past what it is pulled to"
            )
        return self

    def over(self, rounds: int) -> int:
        """Return how many steps a site takes over a run of so many rounds."""
        return self.steps * rounds


class LocalParts(Frozen):
    """Parameters that never leave the site and are trained in the same rounds as the others.

    ``head``: the last layer (FedPer; Arivazhagan et al. 2019). ``norms``: scale and shift of the normalisation layers
    (FedBN; Li, Jiang, et al. 2021). ``intercept``: the last layer's bias alone, for hospitals whose outcome is
    more or less frequent.
    """

    method: Literal["head", "norms", "intercept"]
    learning_rate: PositiveFloat


Personal = Annotated[FineTune | Ditto | LocalParts, Field(discriminator="method")]
