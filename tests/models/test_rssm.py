"""The RSSM compared with DreamerV3's published sizes and definitions."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from worldmodel import models
from worldmodel.data.spec import ActionSpec, DataSpec, ObservationSpec
from worldmodel.data.windows import Window
from worldmodel.models.rssm import RSSMOptions
from worldmodel.nn.codecs import DecoderSizes, ImageDecoder
from worldmodel.nn.distributions import Categorical
from worldmodel.nn.learner import split_module
from worldmodel.policies.actor_critic import ActorCriticOptions, build_heads

SMALL = RSSMOptions(deter=32, hidden=16, classes=4, stoch=4, depth=2, blocks=2)
SPEC = DataSpec(
    {"observation": ObservationSpec((3,), "float32")}, ActionSpec(False, 2, (-1.0,) * 2, (1.0,) * 2)
)

# preset: reward, continue, value; then encoder, RSSM, decoder, policy, total for vectors (P) and
# images (I).
COUNTS = {
    "1m": ((57_663, 41_153, 66_111), (10_112, 364_416, 51_096, 50_316, 640_867), (14_304, 377_408,
    80_595, 50_641, 687_875)), "12m": ((721_407, 656_129, 853_503), (138_752, 5_783_040, 794_136,
    791_052, 9_738_019), (220_416, 5_982_464, 1_272_003, 792_337, 10_498_259)), "25m": ((1_573_503,
    1_475_713, 1_869_951), (306_432, 12_999_936, 1_781_016, 1_776_396, 21_782_947), (493_824,
    13_446_528, 2_857_635, 1_778_321, 23_495_475)), "50m": ((2_753_279, 2_622_977, 3_279_615),
    (539_648, 23_100_416, 3_161_112, 3_154_956, 38_612_003), (876_032, 23_892_480, 5_076_355,
    3_157_521, 41_658_259)), "100m": ((6_095_871, 5_900_545, 7_278_591), (1_202_688, 51_952_128,
    7_100_952, 7_091_724, 86_622_499), (1_966_848, 53_730_048, 11_413_059, 7_095_569, 93_480_531)),
    "200m": ((10_749_183, 10_488_833, 12_850_431), (2_127_872, 92_338_176, 12_613_656, 12_601_356,
    153_769_507), (3_492_864, 95_495_168, 20_282_115, 12_606_481, 165_965_075)), "400m":
    ((23_987_967, 23_597_569, 28_712_703), (4_764_672, 207_713_280, 28_357_656, 28_339_212,
    345_473_059), (7_850_496, 214_808_064, 45_617_283, 28_346_897, 372_920_979)),
}  # fmt: skip


def size(tree: object) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("preset", COUNTS)
@pytest.mark.parametrize("case", ["vectors", "images"])
def test_parameter_counts_match_dreamer_v3(
    preset: str, case: str, walker_spec: DataSpec, image_spec: DataSpec
) -> None:
    spec = walker_spec if case == "vectors" else image_spec

    def build(key: jax.Array) -> dict:
        model = models.build(RSSMOptions(preset=preset), spec, key)
        actor, critic = build_heads(ActorCriticOptions(), model, spec.action, key, jnp.float32)
        return {
            "model": split_module(model)[1],
            "policy": split_module(actor)[1],
            "value": split_module(critic)[1],
        }

    shapes = jax.eval_shape(build, jax.random.key(0))  # without allocating the parameters
    model = shapes["model"]
    counts = [size(model["reward_head"]), size(model["terminal_head"]), size(shapes["value"])]
    counts += [size(model["encoder"]), size(model["dynamics"]), size(model["decoder"])]
    counts += [size(shapes["policy"]), size(shapes)]
    heads, vectors, images = COUNTS[preset]
    assert counts == [*heads, *(vectors if case == "vectors" else images)]


@pytest.fixture(scope="module")
def model() -> models.WorldModel:
    return models.build(SMALL, SPEC, jax.random.key(0))


def random_window(rng: np.random.Generator, batch: int, steps: int) -> Window:
    no = np.zeros((batch, steps), bool)
    return Window(
        observation={"observation": rng.normal(size=(batch, steps, 3)).astype(np.float32)},
        action=rng.uniform(-1, 1, (batch, steps, 2)).astype(np.float32),
        reward=rng.normal(size=(batch, steps)).astype(np.float32),
        is_first=no | (np.arange(steps) == 0), is_last=no, is_terminal=no, mask=~no,
    )  # fmt: skip


def leaves_equal(a: object, b: object, atol: float = 1e-6) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


def test_reward_is_exactly_zero_before_training(
    model: models.WorldModel, rng: np.random.Generator
) -> None:
    states = jax.jit(model.observe)(random_window(rng, 4, 6), jax.random.key(1))
    assert (np.asarray(model.reward(states).mean()) == 0).all()
    _, critic = build_heads(
        ActorCriticOptions(), model, SPEC.action, jax.random.key(2), jnp.float32
    )
    assert (np.asarray(critic(model.features(states)).mean()) == 0).all()


def deterministic(model: models.WorldModel) -> models.WorldModel:
    """The model with logits so large that samples do not depend on the key."""
    graphdef, params = split_module(model)
    for name in ("posterior_output", "prior_output"):
        params["dynamics"][name] = jax.tree.map(lambda x: x * 1e4, params["dynamics"][name])
        params["dynamics"][name]["bias"] = params["dynamics"][name]["bias"] + 1e3 * jnp.asarray(
            np.random.default_rng(0).normal(size=params["dynamics"][name]["bias"].shape),
            jnp.float32,
        )
    certain = nnx.merge(graphdef, params)
    certain.dynamics.unimix = 0.0
    return certain


def test_filtering_in_two_pieces_equals_filtering_at_once(
    model: models.WorldModel, rng: np.random.Generator
) -> None:
    certain = deterministic(model)
    window = random_window(rng, 4, 8)
    observe = jax.jit(certain.observe)
    whole = observe(window, jax.random.key(0))
    first, second = (
        jax.tree.map(lambda x, s=s: x[:, s], window) for s in (slice(0, 5), slice(5, 8))
    )
    start = observe(first, jax.random.key(1))
    last = jax.tree.map(lambda x: x[:, -1], start)
    rest = observe(second, jax.random.key(2), last, first.action[:, -1])
    leaves_equal(jax.tree.map(lambda x: x[:, 5:], whole), rest)


def test_actions_beyond_the_range_are_scaled_back(model: models.WorldModel) -> None:
    start, key = model.initial((1,)), jax.random.key(0)
    step = jax.jit(model.step)
    at_bound = step(start, jnp.ones((1, 2)), key)
    leaves_equal(at_bound, step(start, jnp.full((1, 2), 7.0), key))


def test_kl_terms_are_clamped_at_the_free_nats(rng: np.random.Generator) -> None:
    window = random_window(rng, 4, 6)
    graphdef, params = split_module(models.build(SMALL, SPEC, jax.random.key(0)))

    @jax.jit
    def loss(free_nats: float) -> tuple:
        model = nnx.merge(graphdef, params)
        model.options = replace(SMALL, free_nats=free_nats)
        total, (metrics, _) = model.loss(window, jax.random.key(1))
        return total, metrics

    _, metrics = loss(1e6)
    assert float(metrics["loss/dynamics"]) == float(metrics["loss/representation"]) == 1e6
    total, metrics = loss(0.0)
    assert float(metrics["loss/dynamics"]) == pytest.approx(float(metrics["latent/kl"]), rel=1e-6)
    parts = {k: float(v) for k, v in metrics.items() if k.startswith("loss/")}
    expected = sum(
        {"loss/representation": 0.1}.get(k, 1.0) * v for k, v in parts.items() if k != "loss/total"
    )
    assert float(total) == pytest.approx(expected, rel=1e-5)


def test_each_kl_term_trains_one_side_only() -> None:
    """dyn trains the prior towards a fixed posterior, rep the posterior towards a fixed prior."""
    a = jnp.asarray([[0.3, -1.0, 0.2]])
    b = jnp.asarray([[-0.5, 0.1, 0.9]])

    def dynamics(posterior: jax.Array, prior: jax.Array) -> jax.Array:
        return Categorical.from_logits(posterior).detach().kl(Categorical.from_logits(prior)).sum()

    to_posterior, to_prior = jax.grad(dynamics, (0, 1))(a, b)
    assert not np.asarray(to_posterior).any() and np.asarray(to_prior).any()
    np.testing.assert_allclose(to_prior, jax.nn.softmax(b) - jax.nn.softmax(a), atol=1e-6)


def test_losses_and_logits_are_float32_with_bfloat16(rng: np.random.Generator) -> None:
    """test_conformance.py has their values."""
    window = random_window(rng, 4, 6)

    def outputs(key: jax.Array) -> tuple:
        model = models.build(SMALL, SPEC, key, jnp.bfloat16)
        total, (metrics, states) = model.loss(window, key)
        prior = model.dynamics.prior(states.deter)
        return states.deter, [total, metrics, prior, split_module(model)[1]]

    deter, rest = jax.eval_shape(outputs, jax.random.key(0))
    assert deter.dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves(rest)} == {jnp.dtype("float32")}


@pytest.mark.slow
def test_images_and_discrete_actions_train(rng: np.random.Generator, image_spec: DataSpec) -> None:
    spec = DataSpec(
        {**image_spec.observations, "position": ObservationSpec((2,), "float32")},
        ActionSpec(True, 3),
    )
    model = models.build(replace(SMALL, blocks=4), spec, jax.random.key(0))
    no = jnp.zeros((2, 3), bool)
    window = Window(
        observation={
            "image": jnp.asarray(rng.integers(0, 256, (2, 3, 64, 64, 3)), jnp.uint8),
            "position": jnp.ones((2, 3, 2)),
        },
        action=jnp.asarray([[0, 1, 2], [2, 2, 0]], jnp.int32),
        reward=jnp.zeros((2, 3)),
        is_first=no.at[:, 0].set(True), is_last=no, is_terminal=no, mask=~no,
    )  # fmt: skip
    graphdef, params = split_module(model)

    @jax.jit
    def gradient(params: dict) -> tuple:
        def loss(params: dict) -> tuple:
            return nnx.merge(graphdef, params).loss(window, jax.random.key(1))

        return jax.grad(loss, has_aux=True)(params)

    grads, (metrics, states) = gradient(params)
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(grads))
    assert all(bool(jnp.any(g != 0)) for g in jax.tree.leaves(grads["encoder"]["image"]["convs"]))
    predicted = model.observation(states)
    assert predicted["image"].mean().shape == (2, 3, 64, 64, 3)
    assert predicted["position"].mean().shape == (2, 3, 2)


def test_blocks_of_the_image_decoder_are_groups_of_channels(
    rng: np.random.Generator, image_spec: DataSpec
) -> None:
    """One block of the recurrent state affects one group of channels at every position."""
    sizes = DecoderSizes(deter=32, rest=16, units=16, depth=2, blocks=4)
    image = ImageDecoder(image_spec, sizes, rngs=nnx.Rngs(params=0), dtype=jnp.float32)
    h, add = rng.normal(size=(1, 32)).astype(np.float32), np.float32(np.arange(32) < 8)
    from_deter = jax.jit(image.from_deter)
    moved = np.abs(np.subtract(from_deter(h + add), from_deter(h)))[0]
    per_block = moved.reshape(4, -1)
    assert per_block[0].min() > 0 and per_block[1:].max() == 0
