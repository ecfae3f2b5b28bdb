"""Steps survive the conversion to float32 wherever a column is large compared with its steps, and
columns that need no offset are converted as they are.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import options, rows, written

from worldmodel.data import Episode, Trajectories, build_card, load, stack_episodes, write_rlds
from worldmodel.data.compatibility import conform_to_spec
from worldmodel.data.consistency import notes
from worldmodel.data.offsets import PENDING_EPISODES, add_offset, subtract_offset
from worldmodel.data.quality import quality_warnings
from worldmodel.data.readers.npz import NPZData
from worldmodel.data.readers.tfds import TFDSData
from worldmodel.data.spec import DataSpec


def walks(size: float, step: float, count: int = 3, rows: int = 40, seed: int = 0) -> list:
    """Vectors (rows, 2): a random walk about `size`, and one about 0."""
    rng = np.random.default_rng(seed)
    return [np.cumsum(step * rng.normal(size=(rows, 2)), 0) + [size, 0.0] for _ in range(count)]


def stacked(walks: list, folder=None, **options) -> Trajectories:
    episodes = [Episode({"x": x}, np.zeros((len(x) - 1, 1)), None, False) for x in walks]
    return stack_episodes(episodes, "walks", folder=folder, **options)


def steps_of(dataset: Trajectories) -> np.ndarray:
    raw = dataset.raw_observations()["x"]
    return np.concatenate(list(dataset.step_differences(raw)))


@settings(max_examples=60, deadline=None)
@given(
    st.floats(-15, 15).map(lambda e: 10.0**e),
    st.integers(-4, 12).map(lambda e: 10.0**e),
    st.sampled_from([1.0, -1.0]),
    st.integers(0, 99),
)
def test_steps_are_right_to_a_hundredth_wherever_float64_holds_them(step, ratio, sign, seed):
    walk = walks(sign * step * ratio, step, seed=seed)
    dataset = stacked(walk)
    true = np.concatenate([np.diff(x, axis=0) for x in walk])
    error = np.sqrt(np.square(steps_of(dataset) - true).mean(0))
    assert (error <= 0.01 * np.sqrt(np.square(true).mean(0))).all()
    assert not dataset.lost_digits
    if ratio < 1e4:
        assert not dataset.vector_offsets
    if dataset.vector_offsets:
        assert dataset.vector_offsets["x"][1] == 0.0  # the other column needs none
        assert (error <= 1e-3 * np.sqrt(np.square(true).mean(0))).all()


@settings(max_examples=30, deadline=None)
@given(st.floats(1e-6, 1e6), st.integers(0, 99))
def test_columns_that_need_no_offset_are_bit_identical(size, seed):
    walk = walks(size, size, seed=seed)
    dataset = stacked(walk)
    assert not dataset.vector_offsets
    assert dataset.observations["x"].tobytes() == np.concatenate(walk).astype(np.float32).tobytes()
    assert dataset.raw_observations()["x"] is dataset.observations["x"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=5), st.floats(-1e9, 1e9))
def test_an_offset_that_is_added_and_taken_off_again_changes_nothing(values, size):
    offset = (float(np.float32(size)),) * len(values)
    kept = np.array(values, np.float32)
    again = subtract_offset(add_offset(kept, offset), offset)
    assert np.abs(again - kept).max() <= 1e-6


def test_counts_of_an_encoder_keep_single_counts():
    counts = np.int64(2**40) + np.arange(100)[:, None] * [1, 3]
    dataset = stacked([counts, counts + 7])
    assert (steps_of(dataset) == [1, 3]).all()
    assert dataset.observations["x"].dtype == np.float32


def test_the_positions_of_a_vehicle_are_right_to_a_thousandth_of_a_step():
    """Positions of 5e6 m with steps of 2 cm, as UTM coordinates are."""
    rng = np.random.default_rng(0)
    place = np.array([5_432_100.0, 650_000.0]) + np.cumsum(0.02 * rng.normal(size=(200, 2)), 0)
    dataset = stacked([place[:100], place[100:]])
    true = np.concatenate([np.diff(place[:100], axis=0), np.diff(place[100:], axis=0)])
    assert np.abs(steps_of(dataset) - true).max() < 1e-3 * 0.02
    spec = dataset.spec({"x": "standardize"}).observations["x"]
    assert np.allclose(spec.delta_rms, 0.02, rtol=0.2) and max(map(abs, spec.mean)) < 10
    assert spec.offset == dataset.vector_offsets["x"]
    card = build_card(dataset)["observations"]["x"]
    assert np.allclose(card["mean"], place.mean(0), rtol=1e-9)
    assert not [w for w in quality_warnings(build_card(dataset), {"x": "none"}) if "tiny" in w]


def test_a_late_episode_of_another_size_is_told():
    """The offset is decided on the first episodes; later ones are compared."""
    dataset = stacked(walks(5e6, 0.02, count=PENDING_EPISODES + 64) + walks(9e9, 0.02, count=64))
    assert dataset.vector_offsets["x"][0] == pytest.approx(5e6, rel=1e-6)
    assert "float32 holds such values" in dataset.lost_digits["observation 'x'"]


def test_rewards_and_actions_that_lose_digits_are_told_and_not_blamed():
    rng = np.random.default_rng(0)
    rewards, actions = 1e8 + rng.normal(size=30), 1e9 + rng.uniform(size=(30, 1))
    episodes = [Episode({"x": rng.normal(size=(31, 2))}, actions, rewards, False)] * 5
    dataset = stack_episodes(episodes, "large")
    texts = notes(dataset)
    assert [text.partition(":")[0] for text in texts] == ["action", "reward"]
    assert "float32 holds such values to 8" in texts[1] and "returns" in texts[1]
    warnings = quality_warnings(build_card(dataset), {"x": "none"})
    assert not [text for text in warnings if text.startswith(("action", "reward"))]


def test_offsets_are_stored_with_the_spec_the_cache_and_the_native_form(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    walk = walks(5e6, 0.02)
    dataset = stacked(walk)
    restored = DataSpec.from_json(dataset.spec().to_json())
    assert restored == dataset.spec() and restored.observations["x"].offset
    write_rlds(dataset, tmp_path / "native", "native")
    native = load(TFDSData(path="native"))
    assert native.vector_offsets == dataset.vector_offsets
    assert native.fingerprint() == dataset.fingerprint() and native.spec() == dataset.spec()
    lengths = np.array([len(x) - 1 for x in walk])
    np.savez("walks.npz", observations=np.concatenate(walk), lengths=lengths,
             actions=np.zeros((lengths.sum(), 1)))  # fmt: skip
    decoded, opened = (load(NPZData(path="walks.npz", cache="always")) for _ in range(2))
    for read in (decoded, opened, load(NPZData(path="walks.npz", cache="never"))):
        assert list(read.vector_offsets.values()) == list(dataset.vector_offsets.values())
        assert np.array_equal(read.observations["observation"], dataset.observations["x"])


def test_a_dataset_with_another_offset_conforms_to_the_spec_of_a_model():
    walk = walks(5e6, 0.02)
    dataset, spec = stacked(walk), stacked(walk).spec()
    for other in (stacked(walk, offsets={"x": (4_999_990.0, 2.0)}), stacked(walk)):
        fitted = conform_to_spec(other, spec)
        assert fitted.vector_offsets == dataset.vector_offsets
        difference = fitted.observations["x"] - dataset.observations["x"]
        assert np.abs(difference).max() < 1e-5
    plain = conform_to_spec(stacked(walks(3.0, 0.02)), replace_offset(spec, (3.0, 0.0)))
    expected = np.concatenate(walks(3.0, 0.02)) - [3.0, 0.0]
    assert np.allclose(plain.observations["x"], expected, atol=1e-6)


def replace_offset(spec: DataSpec, offset: tuple[float, ...]) -> DataSpec:
    return replace(spec, observations={"x": replace(spec.observations["x"], offset=offset)})


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_large_integers_of_a_table_keep_their_digits(tmp_path: Path, ending: str) -> None:
    counts = 2**55 + np.cumsum(np.random.default_rng(0).integers(-3, 4, 60))
    file = written(tmp_path / f"log.{ending}", rows(60, x=counts))
    logs = load(options(file, observations=["x"]))
    found = logs.observations["observation"][:, 0]
    np.testing.assert_array_equal(np.diff(found), np.diff(counts))


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("base", [2**63 + 2**62, 2**40])
def test_unsigned_integers_keep_their_digits(base: int) -> None:
    counts = np.uint64(base) + np.arange(60, dtype=np.uint64)[::-1]
    made = [Episode({"x": counts[:, None]}, np.ones((59, 1)), None, terminated=False)]
    found = stack_episodes(made, "counts").observations["x"][:, 0]
    np.testing.assert_array_equal(np.diff(found), -1)
