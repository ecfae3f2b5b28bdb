"""The tables of open-loop prediction."""

from __future__ import annotations

from worldmodel.evaluation.calibration import calibration_sheet
from worldmodel.evaluation.prediction import HorizonMetrics, ObservationPrediction, Prediction
from worldmodel.evaluation.result_table import ResultTable, in_steps
from worldmodel.evaluation.rewards_and_termination import ends_sheet, rewards_sheet
from worldmodel.evaluation.statistics import Estimate
from worldmodel.evaluation.usable_horizon import usable_sheet

QUARTILES = ("lower quartile", "upper quartile")
MOST_DIMENSIONS, WORST = 32, 5  # of a vector, for a table of its worst numbers


def prediction_tables(prediction: Prediction) -> list[ResultTable]:
    """Of every observation error and calibration; how far ahead each is usable; rewards, ends."""
    made = []
    for key, judged in prediction.observations.items():
        made.append(prediction_sheet(key, judged))
        made += worst_sheet(key, judged)
        if judged.calibration:
            made.append(calibration_sheet(key, judged.unit, judged.calibration))
    usable = {key: j.usable for key, j in prediction.observations.items() if j.usable is not None}
    made += [usable_sheet(usable)] if usable else []
    made += [rewards_sheet(prediction.rewards)] if prediction.rewards else []
    return made + ([ends_sheet(prediction.terminations)] if prediction.terminations else [])


def prediction_sheet(key: str, judged: ObservationPrediction) -> ResultTable:
    """A row a horizon; on a terminal without quartiles, climatology and persistence's images."""

    def columns(n: HorizonMetrics) -> dict[str, Estimate]:
        quartiles = {} if n.quartiles is None else dict(zip(QUARTILES, n.quartiles, strict=True))
        climate = {"climatology": n.climatology, "skill over climatology": n.skill_climatology}
        return (
            {"skill": n.skill, "error": n.error}
            | quartiles
            | {"persistence": n.persistence}
            | {name: number for name, number in climate.items() if number is not None}
            | {_title(name): number for name, number in n.images.items()}
        )

    rows = {h: columns(n) for h, n in judged.horizons.items()}
    header = list(next(iter(rows.values())))
    cells = [[str(h), *row.values()] for h, row in rows.items()]
    hidden_in_terminal = [
        h for h in header if h in QUARTILES or "climatology" in h or h.startswith("PSNR")
    ]
    hidden_in_terminal += [h for h in header if h.startswith("SSIM")]
    title = f"Open-loop error of {key}, in {judged.unit}"
    return ResultTable(title, ["steps", *header], cells, tuple(hidden_in_terminal))


def _title(measure: str) -> str:
    """`psnr_persistence` for people."""
    name, _, of = measure.partition("_")
    return f"{name.upper()} of {of}" if of else name.upper()


def worst_sheet(key: str, judged: ObservationPrediction) -> list[ResultTable]:
    """The worst numbers of a short vector at the longest horizon; all are in results.json."""
    longest = max(judged.horizons)
    errors = judged.horizons[longest].dimensions
    if not 2 <= len(errors) <= MOST_DIMENSIONS:
        return []
    worst = sorted(range(len(errors)), key=lambda d: -errors[d].value)[:WORST]
    of = judged.calibration[longest].dimensions if longest in judged.calibration else {}
    header = ["dimension", "error", *(["CRPS", "spread / skill"] if of else [])]
    rows = [
        [str(d), errors[d], *(of[name][d] for name in ("crps", "spread_skill_ratio") if of)]
        for d in worst
    ]
    few = (
        f"The worst {len(worst)} of {len(errors)}" if len(errors) > WORST else f"The {len(errors)}"
    )
    return [ResultTable(f"{few} numbers of {key} after {in_steps([longest])}", header, rows)]
