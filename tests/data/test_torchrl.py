"""Memory-mapped folders of TorchRL: every transition survives, and none crosses a reset."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign_files import write_memmap
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.data import Trajectories, load
from worldmodel.data.readers.torchrl import TorchRLData
from worldmodel.data.sources import parse_source
from worldmodel.errors import DataError

Kinds = list[tuple[int, bool]]


def transitions(kinds: Kinds) -> dict[str, Any]:
    """Episodes of (transitions, terminal) whose rows encode their place."""
    place = np.array([(e, t) for e, (n, _) in enumerate(kinds) for t in range(n)], "f4")
    last = np.cumsum([n for n, _ in kinds]) - 1
    terminated = np.zeros((len(place), 1), bool)
    terminated[last, 0] = [terminal for _, terminal in kinds]
    done = np.zeros_like(terminated)
    done[last] = True
    after = place + np.array([0, 1], "f4")
    following = {"observation": after, "reward": after.sum(1, keepdims=True)}
    following |= {"done": done, "terminated": terminated, "truncated": done & ~terminated}
    return {"observation": place, "action": place[:, ::-1] + 1, "next": following}


def read(folder: Path, content: dict[str, Any], **options: Any) -> Trajectories:
    write_memmap(folder, content, [len(content["action"])])
    return load(TorchRLData(path=str(folder), **options))


def check(logs: Trajectories, kinds: Kinds) -> None:
    assert (logs.lengths - 1).tolist() == [count for count, _ in kinds]
    assert logs.terminated.tolist() == [terminal for _, terminal in kinds]
    assert logs.rewards is not None
    for e, (begin, length) in enumerate(zip(logs.offsets, logs.lengths, strict=True)):
        step = np.arange(length)
        place = np.stack([np.full(length, e), step], 1)
        rows = slice(begin, begin + length)
        np.testing.assert_array_equal(logs.observations["observation"][rows], place)
        np.testing.assert_array_equal(logs.actions[rows][:-1], place[:-1, ::-1] + 1)
        np.testing.assert_array_equal(logs.rewards[rows][:-1], place[1:].sum(1))


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=5))
def test_every_transition_survives(tmp_path_factory: pytest.TempPathFactory, kinds: Kinds) -> None:
    check(read(tmp_path_factory.mktemp("memmap"), transitions(kinds)), kinds)


def test_a_folder_is_recognized_and_a_replay_buffer_read_up_to_what_was_written(
    tmp_path: Path,
) -> None:
    content = transitions([(4, True), (3, False)])
    write_memmap(tmp_path / "storage", content, [7])
    (tmp_path / "storage" / "storage_metadata.json").write_text(json.dumps({"len": 4}))
    assert parse_source(str(tmp_path)).format == "torchrl"
    check(load(TorchRLData(path=str(tmp_path))), [(4, True)])


def test_trajectories_end_where_the_next_observation_is_of_another_row(tmp_path: Path) -> None:
    content = transitions([(4, False), (3, False)])
    for key in ("done", "truncated"):
        content["next"][key][:] = False
    check(read(tmp_path, content), [(4, False), (3, False)])


def test_a_batch_of_two_axes_is_sequences_by_time(tmp_path: Path) -> None:
    content = transitions([(3, False), (3, True)])

    def shaped(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: shaped(inner) for key, inner in value.items()}
        return value.reshape(2, 3, *value.shape[1:])

    write_memmap(tmp_path, shaped(content), [2, 3])
    check(load(TorchRLData(path=str(tmp_path))), [(3, False), (3, True)])


def test_nested_keys_are_observations_and_single_integers_classes(tmp_path: Path) -> None:
    content = transitions([(4, True)])
    for part in (content, content["next"]):
        part["robot"] = {"arm": part.pop("observation")}
    content["action"] = np.array([[0], [2], [1], [0]])
    logs = read(tmp_path, content)
    assert set(logs.observations) == {"robot/arm"} and logs.action_spec.discrete
    assert logs.actions[:4].tolist() == [0, 2, 1, 0]


def test_done_alone_is_asked_about(tmp_path: Path) -> None:
    content = transitions([(4, True), (3, True)])
    del content["next"]["terminated"], content["next"]["truncated"]
    with pytest.raises(DataError, match="data.roles={done: terminal} reads 2 terminal episodes"):
        read(tmp_path / "a", content)
    check(read(tmp_path / "b", content, roles={"done": "terminal"}), [(4, True), (3, True)])


@pytest.mark.parametrize(
    ("key", "entry", "message"),
    [
        ("observation", {"dtype": "torch.bfloat16"}, "observation is torch.bfloat16; accepted:"),
        ("observation", {"shape": [7, 3]}, "observation has 56 bytes; accepted: 84"),
        ("action", {"shape": [14]}, "action has shape (14,); accepted: [7]"),
        ("action", {"shape": None}, "cannot be read"),
    ],
)
def test_metadata_that_do_not_fit_are_refused(
    tmp_path: Path, key: str, entry: dict, message: str
) -> None:
    write_memmap(tmp_path, transitions([(4, True), (3, False)]), [7])
    meta = json.loads((tmp_path / "meta.json").read_text())
    (tmp_path / "meta.json").write_text(json.dumps(meta | {key: meta[key] | entry}))
    with pytest.raises(DataError) as refusal:
        load(TorchRLData(path=str(tmp_path)))
    assert message in str(refusal.value)


KINDS = [(5, True), (4, False), (6, True), (5, True)]


def test_next_observations_that_were_shifted_cross_no_reset(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = transitions(KINDS)
    place = content["observation"]
    place[:, 0] *= 100
    content["next"]["observation"] = np.concatenate([place[1:], place[-1:]])
    with caplog.at_level(logging.WARNING):
        logs = read(tmp_path, content)
    assert logs.num_transitions == 20 and logs.final_logged is not None
    assert not logs.final_logged.any() and "taken as not logged" in caplog.text
    assert logs.terminated.tolist() == [True, False, True, True]


def test_shifted_next_observations_are_not_those_of_truncated_ends_either(tmp_path: Path) -> None:
    content = transitions(KINDS)
    rows = np.random.default_rng(0).uniform(size=(20, 2)).astype("f4")  # resets like any step
    content["observation"] = rows
    content["next"]["observation"] = np.concatenate([rows[1:], rows[-1:]])
    logs = read(tmp_path, content)
    assert logs.final_logged is not None and not logs.final_logged.any()


def test_next_observations_of_ends_may_be_placeholders_or_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = transitions(KINDS)
    ignored = read(tmp_path / "a", content, roles={"next/observation": "ignore"})
    assert ignored.final_logged is not None and not ignored.final_logged.any()
    ended = content["next"]["done"][:, 0]
    content["next"]["observation"][ended] = content["observation"][ended]
    with caplog.at_level(logging.WARNING):
        logs = read(tmp_path / "b", content)
    assert "repeats the observation before it at all 4 ends" in caplog.text
    for found in (logs, ignored):
        assert found.num_transitions == 20 and found.final_logged is not None
        assert not found.final_logged.any()
        assert found.terminated.tolist() == [True, False, True, True]


def test_late_marks_are_refused(tmp_path: Path) -> None:
    content = transitions(KINDS)
    late = np.roll(content["next"]["terminated"], 1, axis=0)
    content["next"]["terminated"] = late
    with pytest.raises(DataError, match="next/terminated marks 3 rows .first: 0. that next/done"):
        read(tmp_path / "a", content)
    del content["next"]["done"], content["next"]["truncated"]
    with pytest.raises(DataError, match="next/observation and terminated contradict each other"):
        read(tmp_path / "b", content)


def test_a_reward_outside_next_is_asked_about(tmp_path: Path) -> None:
    content = transitions([(4, True), (3, False)])
    content["reward"] = content["next"].pop("reward")
    with pytest.raises(DataError, match="reward is beside the observations"):
        read(tmp_path / "a", content)
    check(read(tmp_path / "b", content, roles={"reward": "reward"}), [(4, True), (3, False)])
    content["r"] = content.pop("reward")
    check(read(tmp_path / "c", content, roles={"r": "reward"}), [(4, True), (3, False)])


def test_a_field_without_a_next_one_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = transitions([(4, True)]) | {"extra": np.zeros((4, 1))}
    with caplog.at_level(logging.WARNING):
        read(tmp_path / "a", content)
    assert "extra: as long as the actions (4 rows), but not in next/" in caplog.text
    with pytest.raises(DataError, match="data.roles={extra: observation}: has no next/extra"):
        read(tmp_path / "b", content, roles={"extra": "observation"})
