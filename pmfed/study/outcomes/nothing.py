"""Nothing is predicted: of a study whose method learns no model."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from pmfed.study.outcome import Columns, Floats, Metric, Outcome


class NoOutcome(Outcome):
    """No ``[outcome]`` at all: nobody lacks it, and no file can ask for it."""

    column: str = ""
    task: Literal["none"] = "none"

    since_first: ClassVar[bool] = True

    @property
    def meaning(self) -> str:
        return "nothing"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return ()

    @property
    def columns(self) -> tuple[str, ...]:
        return ()

    def read(self, table: Columns) -> Floats:
        return np.zeros(table.rows)

    @property
    def outputs(self) -> int:
        return 0

    def extremes(self, pixels: tuple[int, ...] = ()) -> npt.NDArray[Any]:
        return np.zeros(0)

    def typical(self, pixels: tuple[int, ...] = ()) -> tuple[Floats, npt.NDArray[Any]]:
        return np.ones(1), np.zeros(1, dtype=self.dtype)


NOTHING = NoOutcome()
