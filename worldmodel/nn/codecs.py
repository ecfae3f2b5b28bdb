"""Encoders and decoders of named observations: MLPs for vectors, convolutions for images.

Sizes follow DreamerV3: `units` per hidden layer, `depth` base channels. Images are square, with a
side that is a multiple of 16; four halvings lead to side / 16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.data.spec import DataSpec, ObservationSpec
from worldmodel.errors import DataError
from worldmodel.nn.distributions import (
    Distribution,
    ImageMSE,
    ScaledMSE,
    SymlogMSE,
    symlog,
)
from worldmodel.nn.layers import MLP, BlockLinear, Dense, Linear, RMSNorm, truncated_normal

KERNEL = 5
CHANNELS = (2, 3, 4, 4)


class Conv(nnx.Module):
    """5x5 convolution, stride 1, same padding: (N, height, width, inputs) -> (N, height, width,
    outputs).
    """

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs, dtype: jnp.dtype):
        shape = (KERNEL, KERNEL, inputs, outputs)
        self.kernel = nnx.Param(truncated_normal(rngs, shape, KERNEL * KERNEL * inputs, 1.0))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32))
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            self.kernel[...].astype(self.dtype),
            window_strides=(1, 1),
            padding="SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + self.bias[...].astype(self.dtype)


def image_keys(spec: DataSpec) -> list[str]:
    return sorted(key for key, o in spec.observations.items() if o.is_image)


def vector_keys(spec: DataSpec) -> list[str]:
    return sorted(key for key, o in spec.observations.items() if not o.is_image)


def _image_side(spec: DataSpec) -> int:
    shapes = {spec.observations[key].shape[:2] for key in image_keys(spec)}
    ((height, width),) = shapes if len(shapes) == 1 else ((0, -1),)
    if height != width or height % 16:
        raise DataError(
            f"images of shape {sorted(shapes)}: accepted: square images of one size, a multiple of "
            "16 pixels"
        )
    return height


@dataclass(frozen=True)
class Scaling:
    """Normalization of a vector for networks, by symlog or by shift and scale, and its inverse."""

    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None  # shift and scale, (D,) each

    @classmethod
    def of(cls, observation: ObservationSpec) -> Scaling:
        if observation.normalization == "none":
            return cls(None)
        shift, scale = observation.shift_and_scale()
        return cls((tuple(shift.tolist()), tuple(scale.tolist())))

    def normalize(self, x: jax.Array) -> jax.Array:
        """The input (..., D) of networks, float32, of a vector in raw units."""
        x = x.astype(jnp.float32)
        if self.statistics is None:
            return symlog(x)
        shift, scale = map(jnp.asarray, self.statistics)
        return (x - shift) / scale

    def predict(self, location: jax.Array) -> SymlogMSE | ScaledMSE:
        """The distribution of the vector in raw units by a network's output (..., D)."""
        if self.statistics is None:
            return SymlogMSE(location)
        return ScaledMSE(location, *map(jnp.asarray, self.statistics))


class ImageEncoder(nnx.Module):
    """uint8 (N, side, side, channels) -> (N, (side / 16)^2 x 4 depth)."""

    def __init__(self, spec: DataSpec, depth: int, *, rngs: nnx.Rngs, dtype: jnp.dtype):
        inputs = sum(spec.observations[key].shape[-1] for key in image_keys(spec))
        sizes = [inputs] + [depth * factor for factor in CHANNELS]
        self.convs = nnx.List(
            [Conv(i, o, rngs=rngs, dtype=dtype) for i, o in zip(sizes, sizes[1:], strict=False)]
        )
        self.norms = nnx.List([RMSNorm(o, rngs=rngs) for o in sizes[1:]])
        self.size = (_image_side(spec) // 16) ** 2 * sizes[-1]

    def __call__(self, image: jax.Array) -> jax.Array:
        x = image.astype(jnp.float32) / 255 - 0.5
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = conv(x)
            n, h, w, c = x.shape
            x = x.reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))
            x = jax.nn.silu(norm(x))
        return x.reshape(x.shape[0], -1)


class Encoder(nnx.Module):
    """Observations {name: (..., shape)} -> tokens (..., size)."""

    def __init__(self, spec: DataSpec, units: int, depth: int, *, rngs: nnx.Rngs, dtype: jnp.dtype):
        self.vectors, self.images = tuple(vector_keys(spec)), tuple(image_keys(spec))
        self.scaling = tuple(Scaling.of(spec.observations[key]) for key in self.vectors)
        inputs = sum(spec.observations[key].shape[0] for key in self.vectors)
        self.vector = MLP(inputs, units, 3, rngs=rngs, dtype=dtype) if self.vectors else None
        self.image = ImageEncoder(spec, depth, rngs=rngs, dtype=dtype) if self.images else None
        self.size = units * bool(self.vectors) + (self.image.size if self.image else 0)

    def __call__(self, observation: Mapping[str, jax.Array]) -> jax.Array:
        tokens = []
        if self.vector is not None:
            pairs = zip(self.scaling, self.vectors, strict=True)
            inputs = [scaling.normalize(observation[key]) for scaling, key in pairs]
            tokens.append(self.vector(jnp.concatenate(inputs, -1)))
        if self.image is not None:
            x = jnp.concatenate([observation[key] for key in self.images], -1)
            flat = x.reshape(-1, *x.shape[-3:])
            tokens.append(self.image(flat).reshape(*x.shape[:-3], -1))
        return jnp.concatenate(tokens, -1)


class ImageDecoder(nnx.Module):
    """Features (recurrent (N, D), rest (N, S)) -> pixels in [0, 1], (N, side, side, channels)."""

    def __init__(
        self,
        spec: DataSpec,
        deter: int,
        rest: int,
        units: int,
        depth: int,
        blocks: int,
        *,
        rngs: nnx.Rngs,
        dtype: jnp.dtype,
    ):
        side = _image_side(spec) // 16
        self.grid = (side, side, CHANNELS[-1] * depth)
        size = side * side * self.grid[-1]
        self.from_deter = BlockLinear(deter, size, blocks, rngs=rngs, dtype=dtype)
        self.from_rest = Dense(rest, 2 * units, rngs=rngs, dtype=dtype)
        self.from_rest_out = Linear(2 * units, size, rngs=rngs, dtype=dtype)
        self.norm = RMSNorm(self.grid[-1], rngs=rngs)
        sizes = [self.grid[-1], *(depth * factor for factor in CHANNELS[-2::-1])]
        self.convs = nnx.List(
            [Conv(i, o, rngs=rngs, dtype=dtype) for i, o in zip(sizes, sizes[1:], strict=False)]
        )
        self.norms = nnx.List([RMSNorm(o, rngs=rngs) for o in sizes[1:]])
        channels = sum(spec.observations[key].shape[-1] for key in image_keys(spec))
        self.output = Conv(sizes[-1], channels, rngs=rngs, dtype=dtype)
        self.blocks = blocks

    def __call__(self, deter: jax.Array, rest: jax.Array) -> jax.Array:
        n, side = deter.shape[0], self.grid[0]
        blocked = self.from_deter(deter)
        # Blocks hold groups of channels: (N, blocks, side, side, c) -> (N, side, side, blocks x c).
        blocked = blocked.reshape(n, self.blocks, side, side, -1).transpose(0, 2, 3, 1, 4)
        x = blocked.reshape(n, *self.grid)
        x = x + self.from_rest_out(self.from_rest(rest)).reshape(n, *self.grid)
        x = jax.nn.silu(self.norm(x))
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = jax.nn.silu(norm(conv(_double(x))))
        return jax.nn.sigmoid(self.output(_double(x)).astype(jnp.float32))


def _double(x: jax.Array) -> jax.Array:
    """Nearest-neighbour doubling of (N, height, width, C)."""
    return x.repeat(2, axis=1).repeat(2, axis=2)


class Decoder(nnx.Module):
    """Features [deter, rest] (..., D + S) -> {name: distribution}."""

    def __init__(
        self,
        spec: DataSpec,
        deter: int,
        rest: int,
        units: int,
        depth: int,
        blocks: int,
        *,
        rngs: nnx.Rngs,
        dtype: jnp.dtype,
    ):
        self.vectors, self.images = tuple(vector_keys(spec)), tuple(image_keys(spec))
        self.channels = tuple(spec.observations[key].shape[-1] for key in self.images)
        self.deter = deter
        self.scaling = tuple(Scaling.of(spec.observations[key]) for key in self.vectors)
        if self.vectors:
            self.hidden = MLP(deter + rest, units, 3, rngs=rngs, dtype=dtype)
            sizes = {key: spec.observations[key].shape[0] for key in self.vectors}
            self.outputs = nnx.Dict(
                {key: Linear(units, size, rngs=rngs, dtype=dtype) for key, size in sizes.items()}
            )
        if self.images:
            self.image = ImageDecoder(
                spec, deter, rest, units, depth, blocks, rngs=rngs, dtype=dtype
            )

    def __call__(self, features: jax.Array) -> dict[str, Distribution]:
        predictions: dict[str, Distribution] = {}
        if self.vectors:
            hidden = self.hidden(features)
            for key, scaling in zip(self.vectors, self.scaling, strict=True):
                predictions[key] = scaling.predict(self.outputs[key](hidden))
        if self.images:
            flat = features.reshape(-1, features.shape[-1])
            pixels = self.image(flat[:, : self.deter], flat[:, self.deter :])
            pixels = pixels.reshape(*features.shape[:-1], *pixels.shape[1:])
            ends = [sum(self.channels[: i + 1]) for i in range(len(self.channels))][:-1]
            for key, part in zip(self.images, jnp.split(pixels, ends, -1), strict=True):
                predictions[key] = ImageMSE(part)
        return predictions
