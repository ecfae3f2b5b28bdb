"""DeviceLoader and HostLoader give the same batches, in any process."""

from __future__ import annotations

import pickle

import jax
import numpy as np
import pytest

from worldmodel.data import ActionSpec, Trajectories, load
from worldmodel.data.host_loader import HostLoader, Shard
from worldmodel.data.loader import DeviceLoader, make_loader
from worldmodel.data.readers.tfds import TFDSData
from worldmodel.data.rlds_writer import write_rlds
from worldmodel.data.windows import Window, batch_indices, batch_indices_on_host, cursor

LENGTHS = [30, 7, 3, 12, 2, 41]
BATCH, ROWS, SEED = 8, 5, 3


def logs(discrete: bool = False) -> Trajectories:
    """Episodes longer and shorter than a window, vectors and images, some of them terminal."""
    rng, rows = np.random.default_rng(0), sum(LENGTHS)
    last = np.cumsum(LENGTHS) - 1
    actions = rng.uniform(-3, 1, (rows, 2)).astype(np.float32)
    if discrete:
        actions = rng.integers(0, 4, rows).astype(np.int32)
    rewards = rng.normal(size=rows).astype(np.float32)
    actions[last], rewards[last] = 0, 0
    bounds = ActionSpec(False, 2, (-3.0, -3.0), (1.0, 1.0))
    return Trajectories(
        observations={
            "x": rng.normal(size=(rows, 3)).astype(np.float32),
            "image": rng.integers(0, 256, (rows, 4, 4, 1)).astype(np.uint8),
        },
        actions=actions,
        rewards=rewards,
        lengths=np.array(LENGTHS),
        terminated=np.arange(len(LENGTHS)) % 2 == 0,
        action_spec=ActionSpec(True, 4) if discrete else bounds,
        source="logs",
    )


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> Trajectories:
    """The same dataset, written, read and memory-mapped."""
    folder = tmp_path_factory.mktemp("sets")
    write_rlds(logs(), folder / "set", "set")
    read = load(TFDSData(path=str(folder / "set"), cache="always", cache_dir=str(folder)))
    assert isinstance(read.observations["image"], np.memmap)
    return read


def on_device(trajectories: Trajectories, *steps: int) -> list[Window]:
    """The batches of `steps`, from one compilation."""
    batches = DeviceLoader.build(trajectories, BATCH, ROWS, SEED)
    batch, arrays = jax.jit(batches.batch), batches.arrays()
    return [jax.device_get(batch(arrays, batches.feed(step, 1), 0)) for step in steps]


@pytest.fixture(scope="module")
def expected() -> list[Window]:
    """The batches of the steps 0 to 31 of `logs()`."""
    return on_device(logs(), *range(32))


def equal(a: Window, b: Window) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_both_loaders_give_the_same_batches(
    mapped: Trajectories, expected: list[Window], num_workers: int
) -> None:
    streamed = HostLoader.build(mapped, BATCH, ROWS, SEED, num_workers)
    try:
        for call in range(3):
            feed = streamed.feed(7 + 2 * call, 2)
            for k in range(2):
                equal(streamed.batch((), feed, k), expected[7 + 2 * call + k])
    finally:
        streamed.close()


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_the_shards_of_all_processes_form_a_batch(
    mapped: Trajectories, expected: list[Window], shards: int
) -> None:
    parts = [
        HostLoader.build(mapped, BATCH, ROWS, SEED, shard=Shard(i, shards)) for i in range(shards)
    ]
    feeds = [part.feed(11, 1) for part in parts]
    whole = jax.tree.map(lambda *x: np.concatenate(x, 1)[0], *feeds)
    equal(whole, expected[11])
    for part in parts:
        part.close()


@pytest.mark.parametrize("discrete", [False, True])
def test_a_selection_gives_the_batches_of_its_episodes_alone(discrete: bool) -> None:
    chosen = logs(discrete).select(np.array([5, 0, 2]))
    batches = HostLoader.build(chosen, BATCH, ROWS, SEED)
    single = jax.tree.map(lambda x: x[0], batches.source.batches(4, 1))
    equal(single, on_device(chosen, 4)[0])


def test_a_jump_to_another_step_gives_the_batches_of_that_step(
    mapped: Trajectories, expected: list[Window]
) -> None:
    streamed = HostLoader.build(mapped, BATCH, ROWS, SEED)
    streamed.feed(0, 2)
    jumped = streamed.feed(30, 2)
    back = streamed.feed(2, 2)
    equal(streamed.batch((), jumped, 1), expected[31])
    equal(streamed.batch((), back, 0), expected[2])
    streamed.close()


@pytest.mark.parametrize(("batch", "count"), [(1, 1), (64, 7), (33, 4097)])
def test_host_and_device_draw_the_same_windows(batch: int, count: int) -> None:
    draw = jax.jit(batch_indices, static_argnums=(2, 3))
    rng = np.random.default_rng(0)
    for step, seed in zip(rng.integers(0, 10**7, 20), rng.integers(0, 2**31, 20), strict=True):
        indices = draw(cursor(int(step), batch, count, int(seed)), 0, batch, count)
        on_host = batch_indices_on_host(int(step), batch, count, int(seed))
        np.testing.assert_array_equal(indices, on_host)


def test_memory_mapped_arrays_are_pickled_as_file_names(mapped: Trajectories) -> None:
    source = HostLoader.build(mapped, BATCH, ROWS, SEED).source
    pixels = mapped.observations["image"][:8].tobytes()
    sent = pickle.dumps(source)
    assert pixels not in sent and pixels in pickle.dumps(logs())
    equal(pickle.loads(sent).batches(3, 2), source.batches(3, 2))


def test_the_loader_is_chosen_by_size_and_can_be_set(
    mapped: Trajectories, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worldmodel.data import loader

    assert isinstance(make_loader(mapped, BATCH, ROWS, SEED), DeviceLoader)
    assert isinstance(make_loader(mapped, BATCH, ROWS, SEED, "host"), HostLoader)
    monkeypatch.setattr(loader, "DEVICE_SHARE", 1e-12)
    assert isinstance(make_loader(mapped, BATCH, ROWS, SEED), HostLoader)
    assert isinstance(make_loader(mapped, BATCH, ROWS, SEED, "device"), DeviceLoader)
