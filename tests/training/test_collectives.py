"""How devices communicate in an update, read from the program compiled for eight of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

COMPILE = """
import json, sys
from dataclasses import replace
import jax
from worldmodel.policies.actor_critic import ActorCriticOptions
from worldmodel.models.gru import GRUOptions
from worldmodel.data.readers.gymnasium import GymnasiumData, collect
from worldmodel.training import mesh as meshes
from worldmodel.training.dispatch import make_dispatch, stage_keys
from worldmodel.training.plan import plan_stages
sys.path.insert(0, sys.argv[1])
from small_runs import RSSM, small_config
program, loader = sys.argv[2:]
trajectories = collect(GymnasiumData(name="pendulum", environment="Pendulum-v1", episodes=3))
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
print(json.dumps({"text": compiled.as_text(), "tensors": tensors}))
"""
COLLECTIVE = re.compile(
    r"= (.*?) (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(?:-start)?\("
)


def collectives(program: str, loader: str) -> tuple[list[tuple[str, list[str]]], dict[str, int]]:
    """Each collective of the program with the types it carries, and the number of trained tensors.
    A loop's body stands there once, however often it runs.
    """
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", COMPILE, str(Path(__file__).parents[1]), program, loader]
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
    return [(kind, types) for kind, types, _ in collectives], result["tensors"]


@pytest.mark.parametrize("loader", ["device", pytest.param("host", marks=pytest.mark.slow)])
def test_an_update_counts_timesteps_and_then_sums_gradients_and_metrics_at_once(
    loader: str,
) -> None:
    """The counts that means divide by are a few integers, which the gradients wait for."""
    found, tensors = collectives("rssm", loader)
    (first, counts), (second, sums) = sorted(found, key=lambda kind_types: len(kind_types[1]))
    assert first == second == "all-reduce"
    assert set(counts) == {"s32[]"}
    assert len(sums) > tensors["all"] and all(t.startswith("f32") for t in sums)


@pytest.mark.slow
def test_only_the_returns_whose_percentiles_are_computed_are_gathered() -> None:
    for program, expected in (("gru", []), ("actor_critic", ["all-gather"])):
        found, _ = collectives(program, "device")
        assert [kind for kind, _ in found if kind != "all-reduce"] == expected


@pytest.mark.slow
def test_sharded_parameters_are_gathered_once_per_update() -> None:
    """Over four of the eight devices, so that both axes of the mesh are used."""
    found, tensors = collectives("sharded", "device")
    gathers = sum(len(types) for kind, types in found if kind == "all-gather")
    assert tensors["sharded"] >= 4
    # And once, or permuted, a gradient that consists of two slices of its kernel.
    assert gathers - tensors["sharded"] in (0, 1)
    assert {kind for kind, _ in found} <= {"all-reduce", "all-gather", "collective-permute"}
