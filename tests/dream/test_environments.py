"""Dreams as Gymnasium environments: checker, autoreset modes, seeds and reset options."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from worldmodel.data.trajectories import Trajectories
from worldmodel.dream import Dream, DreamEnv, DreamVectorEnv
from worldmodel.dream.spaces import validate_action
from worldmodel.errors import UserError
from worldmodel.models import termination

Make = Callable[..., Dream]
COUNT, LIMIT = 3, 4


@pytest.fixture
def pendulums(true_pendulum: Make, pendulum: Trajectories) -> Callable[..., DreamVectorEnv]:
    def make(mode: AutoresetMode, limit: int = LIMIT, **options: Any) -> DreamVectorEnv:
        dream = true_pendulum(time_limit=limit, **options)
        return DreamVectorEnv(dream, pendulum.spec(), COUNT, mode)

    return make


@pytest.mark.parametrize(
    ("kind", "dataset"), [("true_pendulum", "pendulum"), ("stochastic", "image_and_vector")]
)
def test_gymnasiums_checker_accepts_dreams(
    kind: str, dataset: str, request: pytest.FixtureRequest
) -> None:
    dream = request.getfixturevalue(kind)()
    environment = DreamEnv(dream, request.getfixturevalue(dataset).spec())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for expected in ("symmetric and normalized", "infinity", "not having a spec"):
            warnings.filterwarnings("ignore", message=f".*{expected}")
        check_env(environment)


# ------------------------------------------------------------------------------ automatic resets


class RealPendulum:
    """A naive reference: one real environment, set to the initial state of a dream."""

    def __init__(self, dataset: Trajectories):
        self.dataset, self.real = dataset, gymnasium.make("Pendulum-v1").unwrapped
        self.real.reset(seed=0)

    def begin(self, episode: int, step: int) -> np.ndarray:
        seen = self.dataset.observations["observation"][self.dataset.offsets[episode] + step]
        self.real.state = np.array([np.arctan2(seen[1], seen[0]), seen[2]], np.float64)
        self.steps = 0
        return seen

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        self.steps += 1
        seen, reward, *_ = self.real.step(action)
        return seen, reward, self.steps == LIMIT


def begin_reset(reals: list[RealPendulum], infos: dict[str, Any]) -> dict[int, np.ndarray]:
    """Sets the references of the dreams that were reset; returns their initial observations."""
    indices = np.flatnonzero(infos["_start_step"]) if "start_step" in infos else []
    np.testing.assert_array_equal(infos.get("_start_step"), infos.get("_start_episode"))
    return {i: reals[i].begin(infos["start_episode"][i], infos["start_step"][i]) for i in indices}


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_automatic_resets_equal_those_of_a_naive_loop(
    pendulums: Callable, pendulum: Trajectories, mode: AutoresetMode
) -> None:
    """Dreams of the true dynamics against real environments that are stepped one by one. The last
    one is reset later than the others, so that not all end together.
    """
    environments = pendulums(mode)
    assert environments.metadata["autoreset_mode"] is mode
    reals = [RealPendulum(pendulum) for _ in range(COUNT)]
    begin_reset(reals, environments.reset(seed=0)[1])
    environments.action_space.seed(0)
    over, before, ends = np.zeros(COUNT, bool), None, 0
    for t in range(3 * LIMIT):
        if t == 2:
            late = np.arange(COUNT) == COUNT - 1
            seen, infos = environments.reset(options={"reset_mask": late})
            ((_, expected),) = begin_reset(reals, infos).items()
            np.testing.assert_allclose(seen[-1], expected, atol=1e-4)
            np.testing.assert_allclose(seen[:-1], before[:-1], atol=1e-4)
        actions = environments.action_space.sample()
        seen, rewards, terminated, truncated, infos = environments.step(actions)
        assert seen in environments.observation_space and not terminated.any()
        stepped = {
            i: reals[i].step(actions[i])
            for i in range(COUNT)
            if mode is AutoresetMode.SAME_STEP or not over[i]
        }
        fresh = begin_reset(reals, infos)
        due = truncated if mode is AutoresetMode.SAME_STEP else over
        assert list(fresh) == np.flatnonzero(due).tolist()
        for i, (expected, reward, limit) in stepped.items():
            np.testing.assert_allclose(rewards[i], reward, rtol=1e-3, atol=1e-3)
            assert truncated[i] == limit
            last = infos["final_obs"][i] if i in fresh else seen[i]
            np.testing.assert_allclose(last, expected, atol=1e-3)
        for i, expected in fresh.items():
            np.testing.assert_allclose(seen[i], expected, atol=1e-4)
            if mode is AutoresetMode.NEXT_STEP:
                assert rewards[i] == 0 and not truncated[i]
        if mode is AutoresetMode.SAME_STEP and fresh:
            np.testing.assert_array_equal(infos["_final_obs"], truncated)
            np.testing.assert_array_equal(infos["_final_info"], truncated)
        over, before, ends = truncated.copy(), seen, ends + truncated.sum()
    assert ends > 2 * COUNT - 1


def test_final_info_holds_the_infos_of_the_last_steps(hopping: Make, hoppers: Trajectories) -> None:
    """Episodes end by a rule on observations, which every last observation meets."""
    dream = hopping(penalty="ensemble_std")
    same, later = (
        DreamVectorEnv(dream, hoppers.spec(), 50, mode)
        for mode in (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP)
    )
    same.reset(seed=0), later.reset(seed=0)
    actions = np.zeros((50, 3), np.float32)
    seen, _, ended, _, infos = same.step(actions)
    last, _, ended_too, _, plain = later.step(actions)
    assert 0 < ended.sum() < 50
    np.testing.assert_array_equal(ended, ended_too)
    final = np.stack(infos["final_obs"][ended])
    assert termination.hopper(jnp.asarray(final)).all()
    np.testing.assert_array_equal(final, last[ended])
    np.testing.assert_array_equal(seen[~ended], last[~ended])
    for name in ("ensemble_std", "penalty"):
        np.testing.assert_array_equal(infos["final_info"][name], np.where(ended, plain[name], 0))
        np.testing.assert_array_equal(infos[name], np.where(ended, 0, plain[name]))
        np.testing.assert_array_equal(infos[f"_{name}"], ~ended)
    assert all(x is None for x in infos["final_obs"][~ended])


def test_without_automatic_resets_a_dream_that_has_ended_must_be_reset(pendulums: Callable) -> None:
    environments = pendulums(AutoresetMode.DISABLED, limit=1)
    environments.reset(seed=0)
    actions = np.zeros((COUNT, 1), np.float32)
    seen, *_, truncated, infos = environments.step(actions)
    assert truncated.all() and infos == {}
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"\[0, 1, 2\] have ended"):
        environments.step(actions)
    some = np.array([True, True, False])
    again, infos = environments.reset(options={"reset_mask": some})
    np.testing.assert_allclose(again[2], seen[2], atol=1e-5)
    np.testing.assert_array_equal(infos["_start_step"], some)
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"\[2\] have ended"):
        environments.step(actions)
    environments.reset(options={"reset_mask": ~some})
    environments.step(actions)


# ----------------------------------------------------------------------------- seeds and functions


def rollout(environments: DreamVectorEnv, seed: int | None, steps: int = 6) -> list[Any]:
    results = [environments.reset(seed=seed)]
    environments.action_space.seed(0)
    results += [environments.step(environments.action_space.sample()) for _ in range(steps)]
    return jax.tree.leaves(results)


def test_the_same_seed_gives_the_same_dreams(
    stochastic: Make, image_and_vector: Trajectories
) -> None:
    environments = DreamVectorEnv(stochastic(), image_and_vector.spec(), 4)
    first, again = rollout(environments, 3), rollout(environments, 3)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    motion = environments.reset(seed=3)[0]["motion"]
    others = [environments.reset(seed=seed)[0]["motion"] for seed in (None, None, 4)]
    assert all((motion != other).any() for other in others)


def test_the_vector_environment_equals_a_scan_of_the_functions(
    pendulums: Callable, pendulum: Trajectories
) -> None:
    environments = pendulums(AutoresetMode.NEXT_STEP, limit=50)
    environments.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-2, 2, (10, COUNT, 1)).astype(np.float32)
    start = jax.tree.map(jnp.copy, environments.carry.state)  # its own buffers are donated

    def scanned(dream: Dream, state: Any, actions: jax.Array) -> Any:
        def one(state: Any, action: jax.Array) -> Any:
            state, *outputs = dream.step(state, action, jax.random.key(0))  # deterministic
            return state, outputs[:2]

        return jax.lax.scan(one, state, actions)[1]

    seen, rewards = jax.jit(scanned)(environments.dream, start, actions)
    for t, action in enumerate(actions):
        observation, reward, *_ = environments.step(action)
        np.testing.assert_allclose(observation, seen["observation"][t], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(reward, rewards[t], rtol=1e-5, atol=1e-5)


def test_gymnasiums_statistics_of_episodes_are_right(pendulums: Callable) -> None:
    environments = RecordEpisodeStatistics(pendulums(AutoresetMode.NEXT_STEP))
    environments.reset(seed=0)
    total = np.zeros(COUNT)
    for _ in range(LIMIT):
        _, rewards, *_, infos = environments.step(np.ones((COUNT, 1), np.float32))
        total += rewards
    np.testing.assert_allclose(infos["episode"]["r"], total, rtol=1e-5)
    assert (infos["episode"]["l"] == LIMIT).all()


# ---------------------------------------------------------------------------------- reset options


def test_a_dream_begins_at_the_given_step(pendulums: Callable, pendulum: Trajectories) -> None:
    environments = pendulums(AutoresetMode.NEXT_STEP)
    single = DreamEnv(environments.dream, pendulum.spec())
    logged = pendulum.observations["observation"][pendulum.offsets[5] + 17]
    for environment in (environments, single):
        seen, _ = environment.reset(seed=0, options={"episode": 5, "step": 17})
        np.testing.assert_allclose(seen, np.broadcast_to(logged, seen.shape), atol=1e-5)
        _, info = environment.reset(options={"episode": 5})
        assert (np.asarray(info["start_episode"]) == 5).all()


def test_invalid_arguments_are_refused(pendulums: Callable, pendulum: Trajectories) -> None:
    environments = pendulums(AutoresetMode.NEXT_STEP, max_initial_states=60)
    single = DreamEnv(environments.dream, pendulum.spec())
    for environment in (environments, single):
        with pytest.raises(gymnasium.error.ResetNeeded):
            environment.step(environment.action_space.sample())
        for options, expected in (
            ({"epsode": 1}, "did you mean 'episode'"),
            ({"step": 1}, "accepted with episode"),
            (["episode"], r"options: \['episode'\]; accepted: a dict with episode, step"),
            ({3: 1}, "no such option of reset as 3"),
            ({"episode": "a"}, "options: episode: 'a'; accepted: an integer, at least 0"),
            ({"episode": [5, 5]}, r"options: episode: \[5, 5\]"),
            ({"episode": 5, "step": float("nan")}, "options: step: nan"),
            ({"episode": 12}, "no dream begins in episode 12; accepted: 0, 1"),
            ({"episode": 0, "step": 1}, r"no dream begins at step 1 .* the nearest is 0"),
        ):
            with pytest.raises(UserError, match=expected):
                environment.reset(options=options)
        for seed in (-1, 1.5, "a"):
            with pytest.raises(UserError, match="seed: .*; accepted: an integer, at least 0"):
                environment.reset(seed=seed)
        environment.reset()
        with pytest.raises(gymnasium.error.InvalidAction, match=r"shape \(7,\)"):
            environment.step(np.zeros(7))
        spoiled = np.full(environment.action_space.shape, np.nan)
        with pytest.raises(gymnasium.error.InvalidAction, match="nan.*finite numbers"):
            environment.step(spoiled)
        assert np.isfinite(environment.step(np.zeros_like(spoiled))[0]).all()
    for mask in (np.ones(2, bool), [1, 0, 1], np.zeros(3, bool), None, "all", [[1], [1, 2]]):
        with pytest.raises(UserError, match=r"reset_mask has .* accepted: \(3,\) bool"):
            environments.reset(options={"reset_mask": mask})
    for start in ("a", 1.5, -1, 60, [[0]]):
        with pytest.raises(UserError, match="start=.*; accepted: indices .* 0 to 59"):
            environments.dream.reset_at(start, jax.random.key(0))
    state, _ = environments.dream.reset_at([0, 1], jax.random.key(0))
    for action in (0.0, [0.0], np.zeros((3, 1)), np.zeros((2, 2))):
        with pytest.raises(UserError, match=r"action of shape .* accepted: \(2, 1\)"):
            environments.dream.step(state, action, jax.random.key(0))
    for wrong in ((None, [[0.0]] * 2, 0), (state, None, 0)):
        with pytest.raises(UserError, match="accepted: "):
            environments.dream.step(*wrong[:2], jax.random.key(wrong[2]))
    with pytest.raises(UserError, match="key: int; accepted"):
        environments.dream.step(state, [[0.0]] * 2, 3)
    with pytest.raises(UserError, match="key: NoneType; accepted"):
        environments.dream.reset(None)
    with pytest.raises(UserError, match="batch: 0"):
        environments.dream.reset(jax.random.key(0), 0)
    with pytest.raises(UserError, match="autoreset_mode='never'"):
        DreamVectorEnv(environments.dream, pendulum.spec(), 2, "never")
    with pytest.raises(UserError, match="num_envs: 0"):
        DreamVectorEnv(environments.dream, pendulum.spec(), 0)


TORQUE, CLASSES = gymnasium.spaces.Box(-2, 2, (1,), np.float32), gymnasium.spaces.Discrete(3)


@pytest.mark.parametrize(
    ("space", "action"),
    [(TORQUE, action) for action in (
        None, "a", ["a"], [None], [1j], {"a": 1}, [[1, 2], [3]], [], 0.0, [0, 0], [[0]], [np.nan],
        [-np.inf],
    )] + [(CLASSES, action) for action in (None, "a", 1.5, 3, -1, [1], np.nan, 2**40, 2**70)],
)  # fmt: skip
def test_what_is_no_action_is_refused(space: gymnasium.Space, action: Any) -> None:
    with pytest.raises(gymnasium.error.InvalidAction, match=r"accepted: (Box|Discrete)"):
        validate_action(space, action)


def test_actions_of_other_types_are_converted() -> None:
    assert validate_action(TORQUE, [1]).dtype == np.float32
    assert validate_action(TORQUE, np.array([9.0])).tolist() == [9.0]  # clipped by the dream
    assert validate_action(CLASSES, np.int8(2)).dtype == np.int64
