"""How devices communicate in an update, read from the program compiled for eight of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from small_runs import RSSM, read_rows, small_config, small_plan, train_stage

from worldmodel.data.trajectories import Trajectories

COMPILE = """
import json, sys
from dataclasses import replace
from pathlib import Path
import jax
from worldmodel.policies.actor_critic import ActorCriticOptions
from worldmodel.models.gru import GRUOptions
from worldmodel.data.readers.gymnasium import GymnasiumData, collect
from worldmodel.training import mesh as meshes
from worldmodel.training.dispatch import make_dispatch, stage_keys
from worldmodel.training.plan import plan_stages
sys.path.insert(0, sys.argv[1])
from small_runs import RSSM, small_config, train_stage
program, loader, folder = sys.argv[2:]
data = GymnasiumData("pendulum", environment="Pendulum-v1", episodes=12)
trajectories = collect(replace(data, cache_dir=f"{folder}/datasets"))
configs = {
    "rssm": small_config(RSSM),
    "sharded": small_config(replace(RSSM, deter=256, hidden=128)),
    "gru": small_config(GRUOptions(units=16, latent_dim=8)),
    "actor_critic": small_config(RSSM, policy=ActorCriticOptions(hidden=16, horizon=3)),
}
stages = plan_stages(configs[program], trajectories.spec())
plan = replace(list(stages.values())[-1], loader=loader)
learner, batches = plan.build_learner(), plan.make_loader(trajectories)
mesh = meshes.all_devices(4 if program == "sharded" else 1)
keys = stage_keys(plan.seed, plan.name)
shardings = meshes.state_shardings(jax.eval_shape(learner.init, keys.init), mesh)
state = jax.device_put(learner.init(keys.init), shardings)
arrays = meshes.put_feed(batches.arrays(), None, mesh)
feed = meshes.put_feed(batches.feed(0, 5), batches.axis, mesh)
dispatch = make_dispatch(learner, batches, mesh, 5, shardings)
compiled = dispatch.lower(state, arrays, feed, keys.steps).compile()
sharded = sum(not s.is_fully_replicated for s in jax.tree.leaves(shardings.params))
tensors = {"all": len(jax.tree.leaves(state.params)), "sharded": sharded}
if program == "rssm":
    train_stage(plan, Path(folder) / "run", trajectories)
result = {"text": compiled.as_text(), "tensors": tensors, "data": trajectories.fingerprint()}
print(json.dumps(result))
"""
COLLECTIVE = re.compile(
    r"= (.*?) (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(?:-start)?\("
)


def collectives(
    program: str, loader: str, folder: Path
) -> tuple[list[tuple[str, list[str]]], dict[str, int], str]:
    """Each collective of the program with the types it carries, the number of trained tensors, and
    the fingerprint of the data. A loop's body is there once, however often it runs.
    """
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", COMPILE, str(Path(__file__).parents[1]), program, loader]
    command.append(str(folder))
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    collectives = [
        (match[2], re.findall(r"\w+\[[\d,]*\]", match[1]), line)
        for line in result["text"].splitlines()
        if (match := COLLECTIVE.search(line))
    ]
    # None is within a loop over the timesteps of a window: that would be once per timestep.
    inside = [line for _, _, line in collectives if line.count("while/body") > 1]
    assert not inside, inside
    return [(kind, types) for kind, types, _ in collectives], result["tensors"], result["data"]


@pytest.mark.parametrize("loader", ["device", pytest.param("host", marks=pytest.mark.slow)])
def test_devices_communicate_twice_per_update_and_do_not_change_results(
    loader: str, pendulum: Trajectories, tmp_path: Path
) -> None:
    """First the counts that means divide by, a few integers, which the gradients wait for; then all
    gradients and metrics. The results are those of one device with the other loader.
    """
    found, tensors, data = collectives("rssm", loader, tmp_path)
    (first, counts), (second, sums) = sorted(found, key=lambda kind_types: len(kind_types[1]))
    assert first == second == "all-reduce"
    assert set(counts) == {"s32[]"}
    assert len(sums) > tensors["all"] and all(t.startswith("f32") for t in sums)

    assert data == pendulum.fingerprint()
    other = {"device": "host", "host": "device"}[loader]
    plan = replace(small_plan(pendulum, small_config(RSSM)), loader=other)
    train_stage(plan, tmp_path / "one", pendulum)
    one, eight = ([r["loss/total"] for r in read_rows(tmp_path / n)] for n in ("one", "run"))
    assert eight == pytest.approx(one, rel=1e-5)


@pytest.mark.slow
def test_only_the_returns_whose_percentiles_are_computed_are_gathered(tmp_path: Path) -> None:
    for program, expected in (("gru", []), ("actor_critic", ["all-gather"])):
        found, _, _ = collectives(program, "device", tmp_path)
        assert [kind for kind, _ in found if kind != "all-reduce"] == expected


@pytest.mark.slow
def test_sharded_parameters_are_gathered_once_per_update(tmp_path: Path) -> None:
    """Over four of the eight devices, so that both axes of the mesh are used."""
    found, tensors, _ = collectives("sharded", "device", tmp_path)
    gathers = sum(len(types) for kind, types in found if kind == "all-gather")
    assert tensors["sharded"] >= 4
    # And once, or permuted, a gradient that consists of two slices of its kernel.
    assert gathers - tensors["sharded"] in (0, 1)
    assert {kind for kind, _ in found} <= {"all-reduce", "all-gather", "collective-permute"}
