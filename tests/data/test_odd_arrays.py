"""The small odd logs that people reported: the right transitions, by the arithmetic of the system
that was logged, or a refusal that names the row and the remedy.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worldmodel.data import Trajectories, load
from worldmodel.data.readers.hdf5 import HDF5Data
from worldmodel.data.readers.npz import NPZData
from worldmodel.errors import DataError

ODD = Path(__file__).parents[2].parent / "shared" / "data" / "odd_logs"
pytestmark = pytest.mark.skipif(not ODD.is_dir(), reason="the folder of odd logs is missing")


def read(name: str, **options: Any) -> Trajectories:
    kind = NPZData if name.endswith(".npz") else HDF5Data
    return load(kind(path=str(ODD / name), cache="never", **options))


def check(logs: Trajectories, terminal: int, logged: bool) -> None:
    """12 episodes of 20 transitions, each of which obeys the system."""
    assert (logs.lengths - 1).tolist() == [20] * 12 and logs.terminated.sum() == terminal
    assert (logs.final_logged is None) == logged and logs.rewards is not None
    rows = np.setdiff1d(np.arange(len(logs.actions)), logs.last_steps)
    now, action = logs.observations["observation"][rows], logs.actions[rows]
    after = np.concatenate([now[:, :1] + 0.1 * action, 0.9 * now[:, 1:]], 1)
    np.testing.assert_allclose(logs.rewards[rows], -np.abs(after[:, 0]), atol=1e-5)
    known = np.full(len(rows), True)
    known[19::20] = logged
    following = logs.observations["observation"][rows + 1]
    np.testing.assert_allclose(following[known], after[known], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "roles", "terminal", "logged"),
    [
        ("ends/dones.npz", {"dones": "terminal"}, 12, False),
        ("ends/dones.npz", {"dones": "end"}, 0, False),
        ("ends/dones_next.npz", {"dones": "terminal"}, 12, True),
        ("ends/dones_next.npz", {"dones": "end"}, 0, True),
        ("ends/masks.npz", {"masks": "not_terminal"}, 12, True),
        ("ends/masks.npz", {"masks": "not_end"}, 0, True),
        ("ends/terminated_rows.npz", {}, 12, False),
        ("ends/truncations.hdf5", {}, 0, False),
        ("ends/reward_singular.npz", {}, 12, False),
        ("contradictions/good_next_zero_timeouts.npz", {}, 0, True),
        ("contradictions/good_next_zero_timeouts.hdf5", {}, 0, True),
        ("contradictions/shifted_terminals.npz", {}, 12, False),
        ("contradictions/shifted_terminals.hdf5", {}, 12, False),
    ],
)
def test_every_transition_obeys_the_system(
    name: str, roles: dict[str, str], terminal: int, logged: bool
) -> None:
    check(read(name, roles=roles), terminal, logged)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ends/dones.npz", r"dones marks 12 of 240 rows.*{dones: terminal} reads 12"),
        ("ends/dones_next.npz", r"{dones: end} reads 12 that were only cut"),
        ("ends/masks.npz", r"{masks: not_terminal} reads 12 terminal episodes"),
        ("truth/next_terminals_nan.npz", r"terminals is nan in row 0; .*{terminals: ignore}"),
        ("truth/terminated_str_Tplus1.npz", r"terminated is 'False' in row 0; .*ignore}"),
        ("hdf5/vds_missing.hdf5", r"observations is assembled of ep0.h5"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_remedy(name: str, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        read(name)
    assert Path(name).name in str(caught.value)


def test_batches_are_episodes() -> None:
    for name, terminal in (("axes/batch_noreward.npz", 0), ("axes/batch_terminals.npz", 8)):
        logs = read(name)
        assert (logs.lengths - 1).tolist() == [25] * 8 and logs.terminated.sum() == terminal
        with np.load(ODD / name) as archive:
            given = archive["observations"]
        observed = logs.observations["observation"].reshape(8, -1, 3)[:, : given.shape[1]]
        np.testing.assert_array_equal(observed, given)
        np.testing.assert_array_equal(
            logs.actions.reshape(8, 26, 2)[:, :25], np.load(ODD / name)["actions"]
        )


def test_sparse_rewards_links_and_text(caplog: pytest.LogCaptureFixture) -> None:
    sparse = read("sparse/antmaze_like.hdf5")
    assert sparse.returns().tolist() == [1, 1, 1, 1, 1, 0] and sparse.terminated.sum() == 5
    linked = read("hdf5/softlink.hdf5").observations
    assert {key: value.shape[1] for key, value in linked.items()} == {"pos": 3, "vel": 3}
    with caplog.at_level(logging.WARNING):
        assert list(read("hdf5/strings_in_obs.hdf5").observations) == ["state"]
    assert "instruction" in caplog.text
    assert not read("actions/act_int16_dac.npz").action_spec.discrete


def test_rows_of_a_loop_keep_the_goal(tmp_path: Path) -> None:
    table = np.genfromtxt(ODD / "step_rows" / "mountaincar.csv", delimiter=",", names=True)
    reward, done, path = table["reward"], table["done"], tmp_path / "rows.npz"
    observations = np.stack([table["pos"], table["vel"]], 1)
    np.savez(path, observations=observations, actions=table["force"], rewards=reward, dones=done)
    with pytest.raises(DataError, match="dones: terminal"):
        load(NPZData(path=str(path)))
    logs = load(NPZData(path=str(path), roles={"dones": "terminal"}))
    assert logs.num_transitions == len(table) and logs.terminated.sum() == done.sum() > 0
    np.testing.assert_allclose(logs.returns().sum(), reward.sum(), rtol=1e-6)
    goals = logs.last_steps[logs.terminated] - 1
    assert logs.rewards is not None and (logs.rewards[goals] > 90).all()
