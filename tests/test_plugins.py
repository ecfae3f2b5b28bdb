"""Another package registers a family, an algorithm, a data format and a section of the evaluation
by an entry point.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from pages import ROOT
from scripts import Done, run_in_one_process

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
COMMAND = [
    *(str(ROOT / "train.py"), "name=robot", "model=shift", "model.units=8", "policy=clone"),
    *("policy.units=8", "data=lines", "data.path=robot.lines", "data.holdout=0.4", *TRAINING),
    f"training.compilation_cache={os.environ['JAX_COMPILATION_CACHE_DIR']}",
]
DATA_COMMAND = str(ROOT / "worldmodel" / "data" / "__main__.py")
# Scripts that run one after another.
COMMANDS = {
    "help": [str(ROOT / "train.py"), "--help", "model=shift", "policy=clone"],
    "mistyped": [str(ROOT / "train.py"), "model=shfit"],
    "inspect": [DATA_COMMAND, "inspect", "robot.lines"],
    "train": COMMAND,
    "lose the last checkpoint": ["lose.py"],
    "resume": COMMAND,
    "load": ["load.py"],
}
LOSE = """
import shutil

shutil.copy("runs/robot/summary.json", "first.json")
shutil.rmtree("runs/robot/checkpoints/policy/8")
"""
LOAD = """
import worldmodel

run = worldmodel.load("runs/robot")
dataset = run.dataset()
seen = {"position": dataset.observations["position"][None, :3]}
future = run.predict(seen, dataset.actions[None, :7], context=3, horizon=5)
print(type(run.model).__name__, future["position"].shape)
"""


def install(folder: Path, name: str, source: str) -> None:
    """Writes what an installer writes for a package of one module with an entry point."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[worldmodel.plugins]\n{name} = {name}\n")
    (folder / f"{name}.py").write_text(source)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data file and a plug-in."""
    folder = tmp_path_factory.mktemp("plugin")
    install(folder / "site", "wm_example", MODULE)
    (folder / "lose.py").write_text(LOSE)
    (folder / "load.py").write_text(LOAD)
    rng = np.random.default_rng(0)
    with (folder / "robot.lines").open("w") as file:
        for _ in range(6):
            action = rng.uniform(-1, 1, (20, 2))
            position = np.concatenate([np.zeros((1, 2)), np.cumsum(action, 0)])
            episode = {"position": position, "action": action, "reward": -np.abs(action[:, 0])}
            file.write(json.dumps({key: value.tolist() for key, value in episode.items()}) + "\n")
    return folder


@pytest.fixture(scope="module")
def done(folder: Path) -> dict[str, Done]:
    """What `COMMANDS` left."""
    return run_in_one_process(COMMANDS, folder, folder / "site")


def printed(done: Done) -> str:
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_help_lists_the_choices_and_options_of_a_plugin(done: dict[str, Done]) -> None:
    output = printed(done["help"])
    assert "shift*" in output and "clone*" in output and "lines" in output
    assert "share of the latent that a step keeps" in output


def test_a_run_of_a_plugin_trains_resumes_and_loads(folder: Path, done: dict[str, Done]) -> None:
    printed(done["train"])
    run = folder / "runs" / "robot"
    results = json.loads((run / "evaluation" / "results.json").read_text())
    assert results["prediction"]["position"]["3"]["error"]["n"] > 0
    assert results["held_out_episodes"] == 2
    assert "step 4" in printed(done["resume"])
    summaries = [json.loads(p.read_text()) for p in (folder / "first.json", run / "summary.json")]
    policies = [summary["stages"]["policy"]["state_sha256"] for summary in summaries]
    assert policies[0] == policies[1]
    assert printed(done["load"]).split("\n")[0] == "Shift (1, 1, 5, 2)"


def test_messages_name_the_choices_of_a_plugin(done: dict[str, Done]) -> None:
    assert done["mistyped"].returncode == 2 and "did you mean 'shift'" in done["mistyped"].stderr


def test_a_plugins_format_is_found_by_its_file_extension(done: dict[str, Done]) -> None:
    output = printed(done["inspect"])
    assert "robot.lines" in output and "120" in output


def test_a_plugin_that_fails_at_import_is_reported_in_one_line(tmp_path: Path) -> None:
    install(tmp_path, "wm_broken", "import no_such_library")
    command = [str(ROOT / "train.py"), "model=rssm"]
    done = run_in_one_process({"train": command}, tmp_path, tmp_path)["train"]
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert "plug-in wm_broken" in line and "No module named 'no_such_library'" in line
