"""What the eigenvalues of a linear latent say: what is kept from step to step, and what turns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from worldmodel.evaluation.statistics import finite_or_none, format_number
from worldmodel.models.interface import WorldModel

ROUNDING = 1e-6  # closer to 1 than this, in float32, a size is not told from 1
KEPT_AFTER = (10, 100)  # steps


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of a step, (m,) each: one for a mode; its conjugate is not listed."""

    real: np.ndarray
    imaginary: np.ndarray

    @property
    def magnitude(self) -> np.ndarray:
        """The factor that is left after a step."""
        return np.hypot(self.real, self.imaginary)

    @property
    def angle(self) -> np.ndarray:
        """Radians that a step turns by, from 0 to pi. Faster turning looks like slower."""
        return np.abs(np.arctan2(self.imaginary, self.real))

    @property
    def half_life(self) -> np.ndarray:
        """Steps until half is left; infinite where nothing decays."""
        with np.errstate(divide="ignore"):
            steps = np.log(0.5) / np.log(self.magnitude)
        return np.where(self.magnitude < 1 - ROUNDING, steps, np.inf)

    @property
    def period(self) -> np.ndarray:
        """Steps of a whole turn; infinite where nothing turns."""
        with np.errstate(divide="ignore"):
            return 2 * np.pi / self.angle

    def to_json(self) -> list[dict[str, Any]]:
        """Plain JSON, a mode after the other; what is infinite becomes null."""
        columns = {
            "magnitude": self.magnitude,
            "angle": self.angle,
            "half_life_steps": self.half_life,
            "period_steps": self.period,
        }
        rows = zip(*columns.values(), strict=True)
        return [dict(zip(columns, map(finite_or_none, row), strict=True)) for row in rows]

    def __str__(self) -> str:
        """In two sentences: how much is kept, and the slowest and the fastest there is."""
        early, late = KEPT_AFTER
        kept = [int((self.half_life > steps).sum()) for steps in KEPT_AFTER]
        slowest, fastest = self.half_life.max(), self.period.min()
        decay = (
            f"halves in {format_number(slowest)} steps"
            if np.isfinite(slowest)
            else "does not decay"
        )
        turn = f"the fastest turns once in {format_number(fastest)} steps"
        return (
            f"{kept[0]} of {len(self.magnitude)} modes keep more than half after {early} steps, "
            f"{kept[1]} after {late}. "
            f"The slowest {decay}; {turn if np.isfinite(fastest) else 'none turns'}."
        )


def spectrum_of(model: WorldModel) -> Spectrum | None:
    """None where the latent does not move linearly."""
    parts = model.eigenvalues()
    return None if parts is None else Spectrum(*(np.asarray(x, np.float64) for x in parts))
