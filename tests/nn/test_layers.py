"""Layers compared with naive references."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from worldmodel.nn.layers import BlockLinear, Linear, RMSNorm, truncated_normal


def test_block_linear_equals_its_dense_matrix(rng: np.random.Generator) -> None:
    layer = BlockLinear(16, 24, 4, rngs=nnx.Rngs(params=0), dtype=jnp.float32)
    dense = np.zeros((16, 24))
    for k in range(4):
        dense[4 * k : 4 * k + 4, 6 * k : 6 * k + 6] = layer.kernel[k]
    x = rng.normal(size=(5, 16)).astype(np.float32)
    np.testing.assert_allclose(layer(jnp.asarray(x)), x @ dense, atol=1e-5)


def test_shared_inputs_equal_repeated_ones(rng: np.random.Generator) -> None:
    """x_k = [h_k, u]: u shared equals u repeated in every block."""
    blocks, own, shared = 4, 3, 5
    inputs, rngs = blocks * (own + shared), nnx.Rngs(params=0)
    layer = BlockLinear(inputs, 8, blocks, rngs=rngs, dtype=jnp.float32)
    h = rng.normal(size=(6, blocks, own)).astype(np.float32)
    u = rng.normal(size=(6, shared)).astype(np.float32)
    repeated = np.concatenate([h, np.repeat(u[:, None], blocks, 1)], -1).reshape(6, -1)
    np.testing.assert_allclose(
        layer(jnp.asarray(h.reshape(6, -1)), jnp.asarray(u)),
        layer(jnp.asarray(repeated)),
        atol=1e-5,
    )


def test_columns_of_a_linear_layer_add_up(rng: np.random.Generator) -> None:
    layer = Linear(7, 3, rngs=nnx.Rngs(params=0))
    x = jnp.asarray(rng.normal(size=(4, 7)), jnp.float32)
    parts = layer.columns(x[:, :2], 0) + layer.columns(x[:, 2:], 2) + layer.bias[...]
    np.testing.assert_allclose(parts, layer(x), atol=1e-6)


def test_rms_norm_in_closed_form_and_in_float32_under_bfloat16() -> None:
    norm = RMSNorm(3, rngs=nnx.Rngs(params=0))
    x = jnp.asarray([[3.0, -4.0, 12.0]])
    expected = np.array([[3.0, -4.0, 12.0]]) / np.sqrt(169 / 3 + 1e-4)
    np.testing.assert_allclose(norm(x), expected, rtol=1e-6)
    large = jnp.full(
        (1, 3), 1e20, jnp.bfloat16
    )  # the square overflows unless it is float32 and scaled
    assert norm(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    assert norm(large * 1e-5).dtype == jnp.bfloat16


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_initial_kernels_have_the_specified_variance(scale: float) -> None:
    values = truncated_normal(nnx.Rngs(params=0), (200, 500), 200, scale)
    assert float(values.std()) == pytest.approx(scale / 200**0.5, rel=0.02)
    assert float(jnp.abs(values).max()) <= 2 * 1.1368 * scale / 200**0.5 + 1e-6


def test_compute_in_bfloat16_keeps_parameters_in_float32() -> None:
    layer = Linear(4, 4, rngs=nnx.Rngs(params=0), dtype=jnp.bfloat16)
    assert layer(jnp.ones((2, 4))).dtype == jnp.bfloat16
    assert layer.kernel[...].dtype == jnp.float32
