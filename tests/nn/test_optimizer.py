"""The optimizer compared with NumPy for several steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from worldmodel.config import StageOptions
from worldmodel.nn.optimizer import build


def reference(params: dict, grads: list[dict], o: StageOptions) -> dict:
    params = {k: v.astype(np.float64) for k, v in params.items()}
    square = {k: np.zeros_like(v) for k, v in params.items()}
    mean = {k: np.zeros_like(v) for k, v in params.items()}
    for step, grad in enumerate(grads, start=1):
        for k in params:
            g = grad[k].astype(np.float64)
            limit = o.agc_clip * max(1e-3, np.linalg.norm(params[k]))
            g = g * min(1.0, limit / np.linalg.norm(g))
            square[k] = o.beta2 * square[k] + (1 - o.beta2) * g**2
            scaled = g / (np.sqrt(square[k] / (1 - o.beta2**step)) + o.epsilon)
            mean[k] = o.beta1 * mean[k] + (1 - o.beta1) * scaled
            fall = (o.steps - step + 1) / (o.lr_decay_fraction * o.steps)
            rate = o.learning_rate * min(1.0, step / o.warmup_steps, fall)
            params[k] = params[k] - rate * mean[k] / (1 - o.beta1**step)
    return params


def test_agc_then_laprop_equals_numpy(rng: np.random.Generator) -> None:
    options = StageOptions(steps=6, learning_rate=0.01, warmup_steps=3, lr_decay_fraction=0.5)
    params = {
        "kernel": rng.normal(size=(4, 3)).astype(np.float32),
        "bias": np.zeros(3, np.float32),  # its norm is below the minimum of the clipping
    }
    scales = [1e-3, 10.0, 0.1, 1.0, 1e-4, 30.0]
    grads = [
        {k: (rng.normal(size=v.shape) * s).astype(np.float32) for k, v in params.items()}
        for s in scales
    ]
    optimizer = build(options)
    current, state, update = params, optimizer.init(params), jax.jit(optimizer.update)
    for grad in grads:
        updates, state = update(grad, state, current)
        current = optax.apply_updates(current, updates)
    expected = reference(params, grads, options)
    for k in params:
        np.testing.assert_allclose(current[k], expected[k], rtol=2e-4, atol=1e-6)


def test_zero_gradients_change_nothing() -> None:
    optimizer = build(StageOptions(steps=1))
    params = {"kernel": jnp.ones((2, 2))}
    updates, _ = optimizer.update({"kernel": jnp.zeros((2, 2))}, optimizer.init(params), params)
    np.testing.assert_array_equal(updates["kernel"], 0)
