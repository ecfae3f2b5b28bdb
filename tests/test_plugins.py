"""Another package registers a family, an algorithm, a data format and a section of the evaluation
by an entry point.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pages import ROOT

MODULE = '''\
"""A linear family, an algorithm, a format and a section of another package."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from worldmodel import Episode, register
from worldmodel.config import DataOptions, option
from worldmodel.data.episodes import EpisodeStream
from worldmodel.evaluation.section import Section
from worldmodel.models.encoded import EncodedModel, EncodedOptions
from worldmodel.nn.layers import Linear
from worldmodel.policies.networks import DeterministicActor
from worldmodel.policies.offline import OfflineLearner, UpdateStep, mean
from worldmodel.policies.offline_options import OfflineOptions


@dataclass
class ShiftOptions(EncodedOptions):
    """A latent that actions shift."""

    name: str = option("shift", "family of the world model")
    decay: float = option(0.9, "share of the latent that a step keeps", low=0.0, high=1.0)


@register("model", "shift", ShiftOptions)
class Shift(EncodedModel):
    """x' = decay x + B a."""

    def __init__(self, options, spec, *, rngs, dtype=jnp.float32):
        super().__init__(options, spec, rngs=rngs, dtype=dtype)
        self.shift = Linear(spec.action.size, self.size.latent, rngs=rngs, dtype=dtype)

    def control(self, action: jax.Array) -> jax.Array:
        return self.shift(action)

    def advance(self, latent: jax.Array, control: jax.Array) -> jax.Array:
        return self.options.decay * latent + control.astype(jnp.float32)


@dataclass
class CloneOptions(OfflineOptions):
    """Absolute error to the logged actions."""

    name: str = option("clone", "policy algorithm")


@register("policy", "clone", CloneOptions)
class Clone(OfflineLearner):
    needs_reward = False

    def modules(self, key):
        from flax import nnx

        return {"actor": self.network(DeterministicActor, nnx.Rngs(params=key))}

    def update_steps(self):
        return (UpdateStep(("actor",), self.actor_loss),)

    def actor_loss(self, nets, batch, key):
        error = jnp.abs(nets["actor"](batch.features).mode() - batch.action).mean(-1)
        return mean(error, batch), {"loss/actor": mean(error, batch)}


@register("section", "episodes", order=90)
@dataclass(frozen=True)
class Episodes(Section):
    """How many episodes were held out."""

    count: int

    @classmethod
    def run(cls, context):
        return cls(context.held_out.num_episodes)

    def numbers(self):
        return {"held_out_episodes": self.count}

    def sentences(self):
        return [f"Evaluated on {self.count} held-out episodes."]


@dataclass
class LinesData(DataOptions):
    """One episode a line, as JSON."""

    name: str = option("lines", "data source")


@register("data", "lines", LinesData, source="path", endings=(".lines",))
def read(options: LinesData) -> EpisodeStream:
    return EpisodeStream(str(options.path), _episodes(Path(options.path)))


def _episodes(path: Path) -> Iterator[Episode]:
    for line in path.read_text().splitlines():
        fields = {key: np.asarray(value, np.float32) for key, value in json.loads(line).items()}
        yield Episode(
            {"position": fields["position"]}, fields["action"], fields["reward"], terminated=False
        )
'''
TRAINING = [
    *("training.steps_per_dispatch=4", "training.log_every=4", "training.checkpoint_every=4"),
    *("training.world_model.steps=8", "training.world_model.batch_size=4"),
    *("training.world_model.window=8", "training.policy.window=8"),
    *("training.policy.steps=8", "training.policy.batch_size=4", "logging.wandb=disabled"),
    *("evaluation.context=3", "evaluation.horizons=[1,3]", "evaluation.starts_per_episode=1"),
    *("evaluation.num_samples=2", "evaluation.resamples=100"),
    "evaluation.policy_ranking.rollouts_per_policy=0",
    "evaluation.policy_ranking.num_start_states=0",
]
Run = Callable[..., subprocess.CompletedProcess[str]]


def install(folder: Path, name: str, source: str) -> None:
    """Writes what an installer writes for a package of one module with an entry point."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[worldmodel.plugins]\n{name} = {name}\n")
    (folder / f"{name}.py").write_text(source)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs Python in a folder with a data file, where the plug-in is installed."""
    folder = tmp_path_factory.mktemp("plugin")
    site = folder / "site"
    install(site, "wm_example", MODULE)
    rng = np.random.default_rng(0)
    with (folder / "robot.lines").open("w") as file:
        for _ in range(6):
            action = rng.uniform(-1, 1, (20, 2))
            position = np.concatenate([np.zeros((1, 2)), np.cumsum(action, 0)])
            episode = {"position": position, "action": action, "reward": -np.abs(action[:, 0])}
            file.write(json.dumps({key: value.tolist() for key, value in episode.items()}) + "\n")

    def run(*words: str, plugins: Path = site) -> subprocess.CompletedProcess[str]:
        paths = os.pathsep.join([str(plugins), str(ROOT), os.environ.get("PYTHONPATH", "")])
        return subprocess.run(
            [sys.executable, *words],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": paths},
            capture_output=True,
            text=True,
        )

    return run


def succeed(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_help_lists_the_choices_and_options_of_a_plugin(python: Run) -> None:
    output = succeed(python(str(ROOT / "train.py"), "--help", "model=shift", "policy=clone"))
    assert "shift*" in output and "clone*" in output and "lines" in output
    assert "share of the latent that a step keeps" in output


def test_a_run_of_a_plugin_trains_resumes_and_loads(python: Run, shared: Path) -> None:
    words = [
        *(str(ROOT / "train.py"), "name=robot", "model=shift", "model.units=8", "policy=clone"),
        *("policy.units=8", "data=lines", "data.path=robot.lines", "data.holdout=0.4", *TRAINING),
        f"training.compilation_cache={os.environ['JAX_COMPILATION_CACHE_DIR']}",
    ]
    succeed(python(*words))
    run = Path(python("-c", "import os; print(os.getcwd())").stdout.strip()) / "runs" / "robot"
    results = json.loads((run / "evaluation" / "results.json").read_text())
    assert results["prediction"]["position"]["3"]["error"]["n"] > 0
    assert results["held_out_episodes"] == 2
    summary = json.loads((run / "summary.json").read_text())
    shutil.rmtree(run / "checkpoints" / "policy" / "8")
    assert "step 4" in succeed(python(*words))
    resumed = json.loads((run / "summary.json").read_text())
    policies = [s["stages"]["policy"]["state_sha256"] for s in (summary, resumed)]
    assert policies[0] == policies[1]
    program = (
        "import worldmodel; run = worldmodel.load('runs/robot'); dataset = run.dataset()\n"
        "seen = {'position': dataset.observations['position'][None, :3]}\n"
        "future = run.predict(seen, dataset.actions[None, :7], context=3, horizon=5)\n"
        "print(type(run.model).__name__, future['position'].shape)"
    )
    assert succeed(python("-c", program)).split("\n")[0] == "Shift (1, 1, 5, 2)"


def test_messages_name_the_choices_of_a_plugin(python: Run) -> None:
    done = python(str(ROOT / "train.py"), "model=shfit")
    assert done.returncode == 2 and "did you mean 'shift'" in done.stderr


def test_a_plugins_format_is_found_by_its_file_extension(python: Run) -> None:
    output = succeed(python("-m", "worldmodel.data", "inspect", "robot.lines"))
    assert "robot.lines" in output and "120" in output


def test_a_plugin_that_fails_at_import_is_reported_in_one_line(python: Run, tmp_path: Path) -> None:
    install(tmp_path, "wm_broken", "import no_such_library")
    done = python(str(ROOT / "train.py"), "model=rssm", plugins=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert "plug-in wm_broken" in line and "No module named 'no_such_library'" in line
