"""DreamerV3's optimizer: adaptive clipping per tensor, then LaProp (Ziyin et al., arXiv 2002.04839)
with warm-up.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from worldmodel.config import StageOptions

MIN_NORM = 1e-3


def clip_per_tensor(clip: float) -> optax.GradientTransformation:
    """Scales each gradient tensor down to norm `clip x max(MIN_NORM, |parameter|)` (Brock et al.,
    arXiv 2102.06171).

    optax.adaptive_grad_clip does so per output unit; DreamerV3 does it per tensor.
    """

    def update(
        updates: Any, state: optax.OptState, params: Any = None
    ) -> tuple[Any, optax.OptState]:
        def one(grad: jax.Array, param: jax.Array) -> jax.Array:
            limit = clip * jnp.maximum(MIN_NORM, _norm(param))
            norm = _norm(grad)
            return grad * jnp.minimum(1.0, limit / jnp.maximum(norm, 1e-30))

        return jax.tree.map(one, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _norm(x: jax.Array) -> jax.Array:
    # jnp.linalg.norm flattens its input, so one that is split over devices would be gathered.
    return jnp.sqrt(jnp.square(x).sum())


def build(options: StageOptions) -> optax.GradientTransformation:
    """Clip -> divide by the root mean square -> average -> learning rate. LaProp normalizes before
    it averages.
    """

    def learning_rate(count: jax.typing.ArrayLike) -> jax.Array:
        rise = (count + 1) / max(options.warmup_steps, 1)
        fall = (options.steps - count) / max(options.lr_decay_fraction * options.steps, 1)
        share = jnp.minimum(rise, fall) if options.lr_decay_fraction else rise
        return -options.learning_rate * jnp.clip(share, 0.0, 1.0)

    return optax.chain(
        clip_per_tensor(options.agc_clip) if options.agc_clip else optax.identity(),
        optax.scale_by_rms(
            decay=options.beta2, eps=options.epsilon, eps_in_sqrt=False, bias_correction=True
        ),
        optax.ema(options.beta1, debias=True),
        optax.scale_by_schedule(learning_rate),
    )
