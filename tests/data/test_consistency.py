"""Missed resets and actions of another row are told; ordinary logs give no finding."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from worldmodel.data import Episode, Trajectories, load, stack_episodes
from worldmodel.data.commands import run
from worldmodel.data.consistency import explained, notes
from worldmodel.data.readers.npz import NPZData


def system(episodes: int = 12, steps: int = 20) -> list[Episode]:
    """next[0] = now[0] + 0.1 action, next[1:] = 0.9 now[1:]; resets are 10 apart."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(episodes):
        actions = rng.uniform(-1, 1, (steps, 1))
        place = 10.0 * number + 0.1 * np.concatenate([[0], np.cumsum(actions)])
        decay = rng.normal(size=2) * 0.9 ** np.arange(steps + 1)[:, None]
        observations = np.concatenate([place[:, None], decay], 1)
        found.append(Episode({"x": observations}, actions, -np.abs(place[1:]), False))
    return found


def joined(episodes: list[Episode]) -> Trajectories:
    """All rows as one episode; the action at a reset is zero."""
    x = np.concatenate([e.observations["x"] for e in episodes])
    actions = np.concatenate([np.append(e.actions, [[0.0]], 0) for e in episodes])
    return stack_episodes([Episode({"x": x}, actions, None, False)], "joined")


def led_here(dataset: Trajectories) -> Trajectories:
    """The same log with each action one row later, as the one that led to its observation."""
    found = []
    for first, last in zip(dataset.offsets, dataset.last_steps, strict=True):
        actions = np.roll(dataset.actions[first : last + 1], 1, axis=0)
        observations = {k: v[first : last + 1] for k, v in dataset.observations.items()}
        found.append(Episode(observations, actions, None, False))
    return stack_episodes(found, "led here", dataset.action_spec)


def played(name: str, episodes: int = 8, steps: int = 100) -> Trajectories:
    environment = gymnasium.make(name)
    environment.action_space.seed(0)
    found = []
    for seed in range(episodes):
        observations, actions, ended = [environment.reset(seed=seed)[0]], [], False
        while not ended and len(actions) < steps:
            actions.append(environment.action_space.sample())
            observation, _, ended, *_ = environment.step(actions[-1])
            observations.append(observation)
        found.append(Episode({"x": np.stack(observations)}, np.stack(actions), None, ended))
    return stack_episodes(found, name)


def test_a_missed_reset_is_told_with_its_steps():
    (note,) = notes(joined(system()))
    assert "observation 'x', column 0: jumps within episodes" in note
    assert "episode 0, steps 20 to 21, episode 0, steps 41 to 42" in note
    assert "and 8 more" in note
    assert notes(stack_episodes(system(), "separate")) == []


def test_a_single_missed_reset_in_a_long_log_is_found():
    (note,) = notes(joined(system(2, 400)))
    assert "episode 0, steps 400 to 401)" in note


def test_an_action_of_another_row_is_told_with_both_numbers():
    dataset = stack_episodes(system(), "system")
    (note,) = notes(led_here(dataset))
    assert "held-out R2 1.00" in note and "(R2 0.0" in note and "data.feedthrough" in note
    found = explained(dataset)
    assert found.same_row > 0.99 and found.next_row < 0.1


NAMES = ["Pendulum-v1", "CartPole-v1", "MountainCar-v0", "HalfCheetah-v5", "Hopper-v5"]


@pytest.mark.parametrize("name", NAMES)
def test_ordinary_logs_give_no_finding_and_shifted_actions_do(name):
    dataset = played(name)
    assert notes(dataset) == []
    assert [note[:7] for note in notes(led_here(dataset))] == ["action:"]


def test_feedback_is_not_taken_for_an_action_of_another_row():
    """A policy that acts on the observation: the next action knows where the last one led."""
    rng, found = np.random.default_rng(0), []
    for _ in range(10):
        x, observations, actions = rng.normal(size=2), [], []
        for _ in range(60):
            actions.append(-1.5 * x[:1] - 0.5 * x[1:] + 0.1 * rng.normal(size=1))
            observations.append(x)
            x = np.array([x[0] + 0.1 * x[1], x[1] + 0.3 * actions[-1][0]])
        found.append(Episode({"x": np.stack(observations)}, np.stack(actions)[:-1], None, False))
    assert notes(stack_episodes(found, "feedback")) == []


def test_wrapped_angles_switches_and_one_hot_codes_are_no_jumps():
    rng = np.random.default_rng(0)
    speed = 0.1 + 0.02 * rng.normal(size=2000)
    angle = np.mod(np.cumsum(speed), 2 * np.pi) - np.pi
    switch = (np.arange(2000) // 300 % 2).astype(float)
    goal = np.repeat(rng.normal(size=20), 100)
    code = np.eye(4)[np.arange(2000) // 50 % 4]
    x = np.column_stack([angle, switch, goal, code])
    dataset = stack_episodes([Episode({"x": x}, rng.uniform(-1, 1, (1999, 1)), None, False)], "x")
    assert notes(dataset) == []


def test_images_alone_give_no_finding():
    image = np.random.default_rng(0).integers(0, 255, (50, 8, 8, 3)).astype(np.uint8)
    episode = Episode({"image": image}, np.zeros((49, 1)), None, terminated=False)
    assert notes(stack_episodes([episode], "images")) == []


def test_what_is_left_out_without_final_observations_is_counted():
    def episode(terminated: bool, reward: float) -> Episode:
        rewards = np.array([0.0, reward])
        return Episode({"x": np.zeros((2, 1))}, np.zeros((2, 1)), rewards, terminated,
                       final_logged=False)  # fmt: skip

    ended, open_ended, empty = episode(True, 1.0), episode(False, 2.5), episode(False, 0.0)
    (note,) = notes(stack_episodes([ended, open_ended, empty], "three"))
    assert note.startswith("3 of 3 episodes end without the observation after their last action")
    assert "2 of them are not terminal" in note
    assert "1 of which earned a reward (2.5 in all)" in note


def test_load_and_inspect_say_the_same(tmp_path, monkeypatch, caplog, capsys):
    monkeypatch.chdir(tmp_path)
    dataset = joined(system())
    x, actions = dataset.observations["x"], dataset.actions[:-1]
    np.savez("joined.npz", observations=x, actions=actions)
    load(NPZData(path="joined.npz"))
    assert "jumps within episodes" in caplog.text
    caplog.clear()
    assert run(["inspect", "joined.npz"]) == 0
    assert "jumps within" in capsys.readouterr().out and "jumps" not in caplog.text
