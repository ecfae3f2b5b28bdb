"""How a model ranks policies and plans, in words: tables, notes and the verdict."""

from __future__ import annotations

from worldmodel.evaluation.policy_ranking import PolicyRanking
from worldmodel.evaluation.result_table import ResultTable

NOTE = (
    "Ranking: returns imagined by the model against those in the real environment, from the same "
    "first observations; intervals over policies, or starts. Regret is what choosing by the model "
    "loses, as a share of the range; MMRV the mean of the largest real difference it has the wrong "
    "way round, and bias its optimism, both in units of return."
)
LINEAR = "linear corr."


def tables(decision: PolicyRanking) -> list[ResultTable]:
    """How the model ranks policies, a row for every number of steps; and plans, over starts."""
    rows = [
        [str(h), a.spearman, a.pearson, a.regret, a.mmrv, a.bias]
        for h, a in decision.horizons.items()
    ]
    header = ["steps", "rank corr.", LINEAR, "regret", "MMRV", "bias"]
    fewer = {
        who: b.real.n
        for who, b in decision.policies.items()
        if b.real.n < decision.rollouts_per_policy
    }
    but = "".join(f" ({n} of the {who})" for who, n in fewer.items())
    title = f"Ranking of policies, {decision.rollouts_per_policy} starts each{but}"
    made, of = [ResultTable(title, header, rows, (LINEAR,))], decision.sequences
    if of is not None:
        measures = {"rank correlation": of.spearman, "regret": of.regret}
        rows = [[name, x.median, *x.quartiles] for name, x in measures.items()]
        title = f"Ranking of {of.num_action_sequences} sequences of {of.sequence_length} actions from each start"
        made.append(
            ResultTable(title, ["measure", "median", "lower quartile", "upper quartile"], rows)
        )
    return made


def policies_sheet(decision: PolicyRanking) -> ResultTable:
    """Each policy's return in both worlds, the best in the real one first."""
    ordered = sorted(decision.policies.items(), key=lambda item: -item[1].real.value)
    rows = [[name, both.imagined, both.real] for name, both in ordered]
    title = f"Return after {decision.steps:,} steps, in the model and in the real environment"
    return ResultTable(title, ["policy", "imagined", "real"], rows)


def notes(decision: PolicyRanking) -> list[str]:
    """What is to be known of the tables."""
    found = [NOTE]
    if decision.sequences is not None and decision.sequences.unreproducible_starts:
        found.append(
            f"The environment did not come back to {decision.sequences.unreproducible_starts} of the starts by "
            "the same seed and actions: its own chance is part of the ranking of sequences."
        )
    return found


def in_short(decision: PolicyRanking) -> str:
    return f"rank correlation {decision.agreement.spearman} of policies"


def sentence(decision: PolicyRanking) -> str:
    """The verdict."""
    found = decision.agreement
    return (
        f"Over {len(decision.policies)} policies and {decision.steps:,} steps the model ranks "
        f"returns as the world does by {found.spearman.brief} (rank correlation, 1 at best); who "
        f"chooses by the model loses {found.regret.brief} of the range."
    )
