"""Whether the default run's model ranks policies as the real environment does, and untrained ones
do not.

    python benchmarks/ranking.py --folder FOLDER [--model rssm] [--untrained 8] [--words ...]

Trains the default run by train.py, with WORDS; it stays in FOLDER, and the same command resumes.
Then the same policies, with the same returns in the real environment, are imagined by models of the
same family with initial parameters. The initial reward head of `rssm` predicts 0 everywhere, which
would rank nothing; so its last layer is initialized as that of the decoder.
Exits with 1 if the trained model's rank correlation is below --target.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import worldmodel
from worldmodel import models
from worldmodel.evaluation.candidate_policies import candidate_policies, imagined_returns
from worldmodel.evaluation.rank_metrics import (
    ImaginedReturn,
    RankAgreement,
    RealReturn,
    rank_agreement,
)
from worldmodel.evaluation.result_table import ResultTable
from worldmodel.evaluation.returns import environments_of, model_policies
from worldmodel.evaluation.sections.policy_ranking import (
    first_observations,
    ranking_horizons,
    real_returns,
)
from worldmodel.evaluation.statistics import Bootstrap
from worldmodel.loading import LoadedRun
from worldmodel.models import WorldModel
from worldmodel.system.compilation import enable_compilation_cache

TRAIN = Path(__file__).parent.parent / "train.py"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="folder of the run")
    parser.add_argument("--model", default="rssm", help="family of world models")
    parser.add_argument("--untrained", type=int, default=8, help="number of untrained models")
    parser.add_argument("--target", type=float, default=0.9, help="minimum rank correlation")
    parser.add_argument("--words", nargs="+", default=[], help="more options of train.py")
    given = parser.parse_args()
    words = [f"model={given.model}", f"runs_dir={given.folder}", "logging.wandb=disabled"]
    subprocess.run([sys.executable, str(TRAIN), *words, *given.words], check=True)
    run = worldmodel.load(given.folder / f"pendulum-{given.model}-actor_critic-0")
    enable_compilation_cache(run.config.training.compilation_cache)
    found = compare(run, given.untrained)
    header = ["model", "rank correlation", "linear", "regret", "MMRV"]
    rows = [[name, a.spearman, a.pearson, a.regret, a.mmrv] for name, a in found.items()]
    print(ResultTable("Ranking of the same policies", header, rows).markdown())
    trained, *others = (a.spearman for a in found.values())
    covering = sum(rank.low <= 0 <= rank.high for rank in others)
    print(json.dumps({"trained": trained.to_json(), "untrained": len(others), "0 in": covering}))
    return 0 if trained.value >= given.target else 1


def compare(run: LoadedRun, untrained: int) -> dict[str, RankAgreement]:
    """The agreement of every model with the real environment, the trained one first."""
    options, environment = run.config.evaluation, run.config.data.environment
    lengths = ranking_horizons(options.policy_ranking, environment)[-1:]
    choosers = candidate_policies(run.policy, "policy", run.checkpoint_policies(), run.spec.action)
    acts = model_policies(run.model, list(choosers.values()), run.spec)
    with environments_of(
        environment, run.spec, options.policy_ranking.rollouts_per_policy
    ) as environments:
        first = first_observations(environments, options.seed)
        played = [real_returns(environments, run.spec, act, options.seed, lengths) for act in acts]
    real = RealReturn(np.concatenate([p.values.mean(0) for p in played]))
    bootstrap = Bootstrap(options.resamples, options.confidence, options.seed)
    found = {}
    for number in range(untrained + 1):
        model = new(run, number) if number else run.model
        dreamed = [
            imagined_returns(model, c, run.spec, first, lengths, jax.random.key(options.seed))
            for c in choosers.values()
        ]
        imagined = ImaginedReturn(np.concatenate([d.values.mean(0) for d in dreamed]))
        name = f"untrained {number}" if number else "trained"
        found[name] = rank_agreement(imagined, real, bootstrap)
    return found


def new(run: LoadedRun, seed: int) -> WorldModel:
    """A model of the run's family with initial parameters and no layer of zeros."""
    model = nnx.jit(lambda key: models.build(run.config.model, run.spec, key))(jax.random.key(seed))
    output = getattr(getattr(model, "reward_head", None), "output", None)
    if output is not None:
        kernel = output.kernel[...]
        drawn = jax.random.normal(jax.random.key(seed + 1), kernel.shape) / kernel.shape[0] ** 0.5
        output.kernel[...] = jnp.asarray(drawn, kernel.dtype)
    return model


if __name__ == "__main__":
    sys.exit(main())
