"""The spectrum of a linear latent: how long its modes persist, and how fast they turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from worldmodel.config.registry import register
from worldmodel.evaluation.figures import Panel, figure
from worldmodel.evaluation.section import Context, Section
from worldmodel.evaluation.statistics import finite_or_none, format_number

ROUNDING = 1e-6  # closer to 1 than this, a magnitude in float32 counts as 1
KEPT_AFTER = (10, 100)  # steps


@register("section", "spectrum", order=90)
@dataclass(frozen=True)
class Spectrum(Section):
    """Eigenvalues (m,) of one step of the latent, one for a mode; conjugates are not listed."""

    title = "Latent spectrum"
    absent = {"spectrum": None}

    real: np.ndarray
    imaginary: np.ndarray

    @classmethod
    def applies(cls, context: Context) -> bool | str:
        return context.model.eigenvalues() is not None

    @classmethod
    def run(cls, context: Context) -> Self:
        real, imaginary = (np.asarray(x, np.float64) for x in context.model.eigenvalues() or ())
        return cls(real, imaginary)

    def numbers(self) -> dict[str, Any]:
        return {"spectrum": self.modes()}

    @property
    def explanation(self) -> str:
        return str(self)

    def figures(self) -> list[str]:
        """The eigenvalues and their conjugates in the complex plane."""
        edge = 1.08 * max(1.0, self.magnitude.max())
        panel = Panel(
            (-edge, edge),
            (-edge, edge),
            label="Eigenvalues of a step of the latent in the unit disc",
            x_title="real part",
            y_title="imaginary part",
            width=360,
            height=348,  # so that a unit is as long upwards as across
        )
        turn, half_life = np.linspace(0, 2 * np.pi, 121), KEPT_AFTER[0]
        for radius, form in ((1, "dataset"), (0.5 ** (1 / half_life), "dataset dashed")):
            panel.line(radius * np.cos(turn), radius * np.sin(turn), form)
        turning = self.imaginary != 0  # a real eigenvalue is its own conjugate
        real = np.concatenate([self.real, self.real[turning]])
        imaginary = np.concatenate([self.imaginary, -self.imaginary[turning]])
        panel.dots(real, imaginary, "model", 3)
        return [
            figure(
                "Eigenvalues of one step of the latent, for the action 0: a dot and its mirror "
                "image are a mode. The distance from the centre is the factor by which a step "
                "scales it, 1 on the circle; outside the dashed one more than half is left after "
                f"{half_life} steps. The angle is how far a step turns.",
                [("", panel.svg())],
            )
        ]

    @property
    def magnitude(self) -> np.ndarray:
        """The factor by which a step scales the mode."""
        return np.hypot(self.real, self.imaginary)

    @property
    def angle(self) -> np.ndarray:
        """Radians that a step turns by, from 0 to pi; faster turning is aliased."""
        return np.abs(np.arctan2(self.imaginary, self.real))

    @property
    def half_life(self) -> np.ndarray:
        """Steps until half remains; infinite without decay."""
        with np.errstate(divide="ignore"):
            steps = np.log(0.5) / np.log(self.magnitude)
        return np.where(self.magnitude < 1 - ROUNDING, steps, np.inf)

    @property
    def period(self) -> np.ndarray:
        """Steps of a full turn; infinite without rotation."""
        with np.errstate(divide="ignore"):
            return 2 * np.pi / self.angle

    def modes(self) -> list[dict[str, Any]]:
        """Plain JSON, one entry for each mode, with null for what is infinite."""
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
