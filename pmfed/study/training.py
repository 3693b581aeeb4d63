"""``[training]``: how many rounds, and by which algorithm."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from pmfed.study.augmentation import Augmentation
from pmfed.validate import Fraction, Grown


class Optimizer(Grown):
    """``[training.optimizer]``: the coordinator's step on the summed gradient.

    The output's own constant goes ``intercept`` times as far as the rest of the model: it has only one input, so it is the
    last to arrive where the public ``baseline`` is off, and what it lacks the other weights make up for in the meantime. With
    ``fedavg`` it is left out, for the sites' models are averaged; or ``adam`` or ``yogi`` step the way that the models went
    (FedAdam, FedYogi; Reddi et al. 2021).
    """

    LATER: ClassVar[frozenset[str]] = frozenset({"intercept"})

    name: Literal["sgd", "momentum", "adam", "yogi"] = "momentum"
    learning_rate: PositiveFloat
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    intercept: Annotated[float, Field(ge=1, le=100)] = 1.0

    @model_validator(mode="after")
    def _steps_along_the_gradient(self) -> Optimizer:
        if self.intercept != 1 and self.name not in ("sgd", "momentum"):
            raise ValueError(
                f"'intercept' belongs to sgd and momentum: {self.name} chooses each number's step by itself"
            )
        return self


AVERAGE = Optimizer(name="sgd", learning_rate=1.0)
"""Of ``fedavg`` by itself: all the way that the models went on average, and no further."""


class Training(Grown):
    """``[training]``: how many rounds, and by which algorithm.

    ``average_last`` is the share of the last rounds whose models are averaged into the result. ``quorum`` is
    the share of the sites without which the run fails. ``modality_dropout`` is the chance with which, in a step, a
    modality that a patient has is taken for missing (Neverova et al. 2016). ``local_*`` and ``proximal`` belong to ``fedavg``: local steps
    are pulled back to the coordinator's model by ``proximal / 2 |w - w_global|^2`` (FedProx; Li et al. 2020).
    With ``control_variates`` each of them is corrected by how far this site's steps went another way than all sites' did
    (SCAFFOLD; Karimireddy et al. 2020; private: Noble et al. 2022).
    """

    LATER: ClassVar[frozenset[str]] = frozenset({"control_variates"})

    algorithm: Literal["fedsgd", "fedavg"] = "fedsgd"
    rounds: PositiveInt
    optimizer: Optimizer = AVERAGE
    average_last: Annotated[float, Field(ge=0, le=1)] = 0.5
    quorum: Fraction = 0.75
    modality_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    local_steps: PositiveInt = 1
    local_learning_rate: PositiveFloat | None = None
    proximal: Annotated[float, Field(ge=0)] = 0.0
    control_variates: bool = False
    augmentation: Augmentation | None = None

    @property
    def averages_models(self) -> bool:
        """Whether the sites' models are averaged as they are, so that the optimizer has nothing to do."""
        return self.algorithm == "fedavg" and self.optimizer.name == "sgd"

    @property
    def _steps_with_models(self) -> bool:
        """Whether the optimizer is one that does what it says to models that are averaged."""
        return self.optimizer.name in ("adam", "yogi") or (self.averages_models and self.optimizer.learning_rate == 1)

    @model_validator(mode="after")
    def _fits_algorithm(self) -> Training:
        if self.algorithm == "fedsgd" and (self.local_steps != 1 or self.local_learning_rate is not None):
            raise ValueError("'local_steps' and 'local_learning_rate' belong to algorithm 'fedavg'")
        if self.algorithm == "fedavg" and self.local_learning_rate is None:
            raise ValueError("algorithm 'fedavg' needs 'local_learning_rate'")
        if self.algorithm == "fedsgd" and "optimizer" not in self.model_fields_set:
            raise ValueError("algorithm 'fedsgd' needs 'optimizer', the coordinator's step")
        if self.algorithm == "fedavg" and not self._steps_with_models:
            raise ValueError(
                f"optimizer '{self.optimizer.name}' would do nothing: algorithm 'fedavg' averages the sites' models. Leave "
                "'optimizer' out, or name 'adam' or 'yogi' to step the way the models went (FedAdam, FedYogi)"
            )
        if self.control_variates and (self.algorithm != "fedavg" or not self.averages_models or self.proximal > 0):
            raise ValueError(
                "'control_variates' belongs to algorithm 'fedavg' without 'proximal' and 'optimizer': they would correct twice"
            )
        if self.proximal > 0:
            if self.algorithm == "fedsgd":
                raise ValueError("'proximal' belongs to algorithm 'fedavg': a fedsgd site takes no step of its own")
            if self.local_steps == 1:
                raise ValueError("'proximal' needs 'local_steps' above 1: the first step starts where it pulls to")
            if self.proximal * (self.local_learning_rate or 0.0) >= 1:
                raise ValueError(
                    "'proximal' times 'local_learning_rate' must be below 1, or a step goes past what it is pulled to"
                )
        return self


NO_TRAINING = Training(rounds=1, optimizer=Optimizer(learning_rate=1.0))
"""Of a study whose method trains nothing."""
