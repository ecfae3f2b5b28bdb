"""What several runs earn in the real environment on the same episode seeds, and how each of their
models ranks policies.
"""

from __future__ import annotations

import numpy as np

from worldmodel.evaluation.comparison import MORE, Lead, Measure, MeasureComparison, ranked
from worldmodel.evaluation.policy_ranking import PolicyRanking
from worldmodel.evaluation.statistics import Bootstrap

RANKING_NOTE = (
    "Each model ranks policies made from its own run's policy, so that rank correlations and "
    "regrets of two runs are of different policies: no paired difference is told of them."
)
Earned = dict[str, np.ndarray]  # returns (seeds, episodes) of each run


def compare_returns(
    earned: dict[str, Earned], environment: str, bootstrap: Bootstrap
) -> list[Measure]:
    """Of everyone who acts with two or more runs."""
    rows = {
        who: _returns(of_runs, bootstrap) for who, of_runs in earned.items() if len(of_runs) > 1
    }
    title = f"Mean return in the real {environment}"
    return [Measure("returns", "Returns", title, "agent", "return", rows)] if rows else []


def _returns(earned: Earned, bootstrap: Bootstrap) -> MeasureComparison:
    """On common episode seeds; of several training seeds their mean counts."""
    means = {run: returns.mean(0) for run, returns in earned.items()}
    numbers = {run: bootstrap.mean(mean, "episodes") for run, mean in means.items()}
    best, second = ranked(numbers, MORE)[:2]
    return MeasureComparison(
        numbers, Lead(best, second, bootstrap.paired(means[best], means[second]))
    )


def compare_rankings(decisions: dict[str, PolicyRanking]) -> list[Measure]:
    """By the number of steps: the rank correlation over policies, and the regret."""
    kinds = {"spearman": "Rank correlation", "regret": "Regret"}
    titles = {
        "spearman": "Rank correlation of imagined and real returns",
        "regret": "What choosing by the model loses, as a share of the range of returns",
    }
    if len(decisions) < 2:
        return []
    lengths = next(iter(decisions.values())).horizons
    return [
        Measure(
            f"policy_ranking.{name}",
            kind,
            titles[name],
            "steps",
            kind.lower(),
            {
                str(h): MeasureComparison(
                    {run: getattr(d.horizons[h], name) for run, d in decisions.items()}
                )
                for h in lengths
            },
        )
        for name, kind in kinds.items()
    ]
