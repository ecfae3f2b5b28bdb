"""The learner of a world model, or of a module of it that is pretrained. Its gradients can be
computed in microbatches or with rematerialization, where a batch does not fit in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from worldmodel.data.windows import Window
from worldmodel.nn.learner import (
    Metrics,
    Params,
    TrainState,
    apply_gradients,
    create_train_state,
    graphdefs_of,
    split_module,
)

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


class WorldModelLearner:
    """Minimizes the `loss` of a module.

    build: from a key to a new module with `loss(window, key) -> loss, (metrics, ...)`
    name: of the module among the state's parameters
    pretrained: attributes of the module that earlier stages trained, which stay as they are
    microbatches, remat: see `gradients`
    """

    def __init__(
        self,
        build: Callable[[jax.Array], nnx.Module],
        optimizer: optax.GradientTransformation,
        *,
        name: str = "model",
        pretrained: Mapping[str, nnx.Module] | None = None,
        microbatches: int = 1,
        remat: bool = False,
    ):
        self.microbatches, self.remat = microbatches, remat
        self.build, self.optimizer, self.name = build, optimizer, name
        self.graphdefs = graphdefs_of(lambda key: {name: build(key)})
        self.pretrained = {
            attribute: split_module(module)[1] for attribute, module in (pretrained or {}).items()
        }

    def init(self, key: jax.Array) -> TrainState:
        # Copies, since the state is donated; outside the compiled part, where they would be
        # constants.
        frozen = jax.tree.map(lambda x: x.copy(), self.pretrained)
        return replace(jax.jit(self._init)(key), frozen=frozen)

    def _init(self, key: jax.Array) -> TrainState:
        params = split_module(self.build(key))[1]
        trained = {name: value for name, value in params.items() if name not in self.pretrained}
        return create_train_state({self.name: trained}, self.optimizer)

    def loss(self, frozen: Params) -> Loss:
        """As a function of the trained parameters, given the `frozen` ones."""

        def loss(params: Params, batch: Window, key: jax.Array) -> tuple[jax.Array, Metrics]:
            module = nnx.merge(self.graphdefs[self.name], params[self.name] | frozen)
            total, (metrics, _) = module.loss(batch, key)
            return total, metrics

        return loss

    def update(
        self, state: TrainState, batch: Window, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        grads, metrics = gradients(
            self.loss(state.frozen),
            state.params,
            batch,
            key,
            microbatches=self.microbatches,
            remat=self.remat,
        )
        state, norms = apply_gradients(state, grads, self.optimizer)
        return state, metrics | norms
