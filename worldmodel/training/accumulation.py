"""Gradients of a batch that does not fit in memory: in microbatches, or with rematerialization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from worldmodel.data.windows import Window
from worldmodel.nn.learner import Metrics, Params

Loss = Callable[[Params, Window, jax.Array], tuple[jax.Array, Metrics]]


def remat_loss(loss: Loss) -> Loss:
    """The same loss, whose gradient keeps only matrix products and recomputes everything else."""
    return jax.checkpoint(loss, policy=jax.checkpoint_policies.dots_saveable)


def gradients(
    loss: Loss,
    params: Params,
    batch: Window,
    key: jax.Array,
    microbatches: int = 1,
    remat: bool = False,
) -> tuple[Params, Metrics]:
    """Mean gradients and metrics of `loss` over `microbatches` equal parts of the batch (B, T), one
    after the other, each with noise of its own.

    They equal those of the whole batch where the loss is a mean over windows and has no noise. They
    differ where it divides by what the batch holds: valid timesteps, if windows are padded, or the
    variance of the latents. remat: see `remat_loss`.
    """
    grad = jax.grad(remat_loss(loss) if remat else loss, has_aux=True)
    if microbatches == 1:
        return grad(params, batch, key)

    def add(total: Any, microbatch: tuple[Window, jax.Array]) -> tuple[Any, None]:
        windows, key = microbatch
        return jax.tree.map(jnp.add, total, grad(params, windows, key)), None

    # Windows that are `microbatches` apart: neighbors are on one device, and stay there.
    parts = jax.tree.map(
        lambda x: jnp.swapaxes(x.reshape(-1, microbatches, *x.shape[1:]), 0, 1), batch
    )
    keys = jax.random.split(key, microbatches)
    shapes = jax.eval_shape(grad, params, jax.tree.map(lambda x: x[0], parts), keys[0])
    zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    total, _ = jax.lax.scan(add, zero, (parts, keys))
    return jax.tree.map(lambda x: x / microbatches, total)
