"""What devices say to each other in an update: read from the compiled program for eight of them."""

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
from worldmodel.data.readers.gymnasium import GymnasiumData
from worldmodel.data.loader import make_loader
from worldmodel.data.readers.gymnasium import collect
from worldmodel.training import mesh as meshes
from worldmodel.training.dispatch import make_dispatch, stage_keys
from worldmodel.training.stages import build_learner
sys.path.insert(0, sys.argv[1])
import test_loop
family, loader = sys.argv[2:]
logs = collect(GymnasiumData(name="pendulum", environment="Pendulum-v1", episodes=3))
config, stage = test_loop.CONFIG, "world_model"
split = family == "split"
if split:
    config = replace(config, model=replace(config.model, deter=256, hidden=128))
if family == "gru":
    config = replace(config, model=GRUOptions(units=16, latent_dim=8))
if family == "actor_critic":
    config, stage = replace(config, policy=ActorCriticOptions(hidden=16, horizon=3)), "policy"
    config.training.policy = test_loop.OPTIONS
learner = build_learner(config, logs.spec(), stage)
batches = make_loader(logs, 8, 6, 0, loader)
mesh, keys = meshes.all_devices(4 if split else 1), stage_keys(0, stage)
shardings = meshes.state_shardings(jax.eval_shape(learner.init, keys.init), mesh)
state = jax.device_put(learner.init(keys.init), shardings)
arrays = meshes.put_feed(batches.arrays(), None, mesh)
feed = meshes.put_feed(batches.feed(0, 5), batches.axis, mesh)
dispatch = make_dispatch(learner, batches, mesh, 5, shardings)
compiled = dispatch.lower(state, arrays, feed, keys.steps).compile()
large = sum(not place.is_fully_replicated for place in jax.tree.leaves(shardings.params))
tensors = {"all": len(jax.tree.leaves(state.params)), "split": large}
print(json.dumps({"text": compiled.as_text(), "tensors": tensors}))
"""
COLLECTIVE = re.compile(
    r"= (.*?) (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(?:-start)?\("
)


def collectives(family: str, loader: str) -> tuple[list[tuple[str, list[str]]], dict[str, int]]:
    """Each collective of the program with the types it carries, and the number of trained tensors.
    A loop's body stands there once, however often it runs.
    """
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", COMPILE, str(Path(__file__).parent), family, loader]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    found = [
        (match[2], re.findall(r"\w+\[[\d,]*\]", match[1]), line)
        for line in result["text"].splitlines()
        if (match := COLLECTIVE.search(line))
    ]
    # Nothing is said within a loop over the rows of a window: that would be once a row.
    inside = [line for _, _, line in found if line.count("while/body") > 1]
    assert not inside, inside
    return [(kind, types) for kind, types, _ in found], result["tensors"]


@pytest.mark.parametrize("loader", ["device", pytest.param("host", marks=pytest.mark.slow)])
def test_an_update_counts_rows_and_then_sums_gradients_and_metrics_at_once(loader: str) -> None:
    """The counts behind its means are a few integers; what they divide has to wait for them."""
    (counted, counts), (summed, sums) = sorted(
        (found := collectives("rssm", loader))[0], key=lambda each: len(each[1])
    )
    assert counted == summed == "all-reduce"
    assert set(counts) == {"s32[]"}
    assert len(sums) > found[1]["all"] and all(t.startswith("f32") for t in sums)


@pytest.mark.slow
def test_nothing_is_gathered_but_the_returns_whose_percentiles_are_taken() -> None:
    for family, expected in (("gru", []), ("actor_critic", ["all-gather"])):
        found, _ = collectives(family, "device")
        assert [kind for kind, _ in found if kind != "all-reduce"] == expected


@pytest.mark.slow
def test_split_parameters_are_gathered_once_an_update() -> None:
    """Over four of the eight devices, so that both axes are at work."""
    found, tensors = collectives("split", "device")
    gathers = sum(len(types) for kind, types in found if kind == "all-gather")
    assert tensors["split"] >= 4
    # And once, or permuted, a gradient that was put together from two slices of its kernel.
    assert gathers - tensors["split"] in (0, 1)
    assert {kind for kind, _ in found} <= {"all-reduce", "all-gather", "collective-permute"}
