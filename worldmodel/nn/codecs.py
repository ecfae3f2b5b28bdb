"""Encoders and decoders of named observations: MLPs for vectors, convolutions for images.

Sizes follow DreamerV3: `units` per hidden layer, `depth` base channels. Four halvings of an image
lead to (height / 16, width / 16). Images of other sizes, or of several, are padded at the bottom
and on the right to the next multiples of 16, and predictions are cropped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from worldmodel.data.spec import DataSpec
from worldmodel.nn.distributions import Distribution, ImageMSE
from worldmodel.nn.layers import MLP, BlockLinear, Dense, Linear, RMSNorm, truncated_normal
from worldmodel.nn.vectors import Vectors, image_keys, vector_keys

KERNEL = 5
CHANNELS = (2, 3, 4, 4)
REDUCTION = 2 ** len(CHANNELS)  # of the sides of an image
GRAY = 128  # close to 0 where the encoder sees it


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


def _grid(spec: DataSpec) -> tuple[int, int]:
    """(height / 16, width / 16) of the padded images."""
    shapes = [spec.observations[key].shape for key in image_keys(spec)]
    height, width = (max(sizes) for sizes in list(zip(*shapes, strict=True))[:2])
    return -(-height // REDUCTION), -(-width // REDUCTION)


def pad(image: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """(..., height, width, channels) padded with gray to the size of a grid."""
    rows, columns = (REDUCTION * n - side for n, side in zip(grid, image.shape[-3:-1], strict=True))
    if rows == columns == 0:
        return image
    widths = [(0, 0)] * (image.ndim - 3) + [(0, rows), (0, columns), (0, 0)]
    return jnp.pad(image, widths, constant_values=GRAY)


def crop(image: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The upper left part of a padded image (..., height, width, channels)."""
    return image if image.shape[-3:] == shape else image[..., : shape[0], : shape[1], :]


class ImageEncoder(nnx.Module):
    """uint8 (N, height, width, channels) -> (N, (height / 16) (width / 16) x 4 depth)."""

    def __init__(self, spec: DataSpec, depth: int, *, rngs: nnx.Rngs, dtype: jnp.dtype):
        inputs = sum(spec.observations[key].shape[-1] for key in image_keys(spec))
        widths = [inputs] + [depth * factor for factor in CHANNELS]
        self.convs = nnx.List([Conv(i, o, rngs=rngs, dtype=dtype) for i, o in pairwise(widths)])
        self.norms = nnx.List([RMSNorm(o, rngs=rngs) for o in widths[1:]])
        self.size = math.prod(_grid(spec)) * widths[-1]

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
        self.vectors, self.images = Vectors.of(spec), tuple(image_keys(spec))
        self.grid = _grid(spec) if self.images else (0, 0)
        size = self.vectors.size
        self.vector = MLP(size, units, 3, rngs=rngs, dtype=dtype) if size else None
        self.image = ImageEncoder(spec, depth, rngs=rngs, dtype=dtype) if self.images else None
        self.size = units * bool(size) + (self.image.size if self.image else 0)

    def __call__(self, observation: Mapping[str, jax.Array]) -> jax.Array:
        tokens = []
        if self.vector is not None:
            tokens.append(self.vector(self.vectors.normalize(observation)))
        if self.image is not None:
            x = jnp.concatenate([pad(observation[key], self.grid) for key in self.images], -1)
            flat = x.reshape(-1, *x.shape[-3:])
            tokens.append(self.image(flat).reshape(*x.shape[:-3], -1))
        return jnp.concatenate(tokens, -1)


class DecoderSizes(NamedTuple):
    """deter and rest: numbers of features in two parts, the first in `blocks`; units: of hidden
    layers; depth: base channels of images
    """

    deter: int
    rest: int
    units: int
    depth: int
    blocks: int = 1

    @property
    def features(self) -> int:
        return self.deter + self.rest


class ImageDecoder(nnx.Module):
    """Features (recurrent (N, D), rest (N, S)) -> padded pixels in [0, 1], (N, height, width,
    channels).
    """

    def __init__(self, spec: DataSpec, sizes: DecoderSizes, *, rngs: nnx.Rngs, dtype: jnp.dtype):
        deter, rest, units, depth, blocks = sizes
        self.grid = (*_grid(spec), CHANNELS[-1] * depth)
        size = math.prod(self.grid)
        self.from_deter = BlockLinear(deter, size, blocks, rngs=rngs, dtype=dtype)
        self.from_rest = Dense(rest, 2 * units, rngs=rngs, dtype=dtype)
        self.from_rest_out = Linear(2 * units, size, rngs=rngs, dtype=dtype)
        self.norm = RMSNorm(self.grid[-1], rngs=rngs)
        widths = [self.grid[-1], *(depth * factor for factor in CHANNELS[-2::-1])]
        self.convs = nnx.List([Conv(i, o, rngs=rngs, dtype=dtype) for i, o in pairwise(widths)])
        self.norms = nnx.List([RMSNorm(o, rngs=rngs) for o in widths[1:]])
        channels = sum(spec.observations[key].shape[-1] for key in image_keys(spec))
        self.output = Conv(widths[-1], channels, rngs=rngs, dtype=dtype)
        self.blocks = blocks

    def __call__(self, deter: jax.Array, rest: jax.Array) -> jax.Array:
        n, (height, width, _) = deter.shape[0], self.grid
        blocked = self.from_deter(deter)
        # Blocks hold groups of channels: (N, blocks, height, width, c) to (..., blocks x c).
        blocked = blocked.reshape(n, self.blocks, height, width, -1).transpose(0, 2, 3, 1, 4)
        x = blocked.reshape(n, *self.grid)
        x = x + self.from_rest_out(self.from_rest(rest)).reshape(n, *self.grid)
        x = jax.nn.silu(self.norm(x))
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = jax.nn.silu(norm(conv(_double(x))))
        return jax.nn.sigmoid(self.output(_double(x)).astype(jnp.float32))


def _double(x: jax.Array) -> jax.Array:
    """Nearest-neighbour doubling of (N, height, width, C)."""
    return x.repeat(2, axis=1).repeat(2, axis=2)


class LinearEncoder(nnx.Module):
    """Vectors {name: (..., D)}, normalized and concatenated. It has no parameters."""

    def __init__(self, spec: DataSpec):
        self.vectors = Vectors.of(spec)
        self.size = self.vectors.size

    def __call__(self, observation: Mapping[str, jax.Array]) -> jax.Array:
        return self.vectors.normalize(observation)


class LinearDecoder(nnx.Module):
    """Features (..., F) -> {name: distribution of the vector (..., D)}, by one layer for all."""

    def __init__(self, spec: DataSpec, features: int, *, rngs: nnx.Rngs, dtype: jnp.dtype):
        self.vectors = Vectors.of(spec)
        self.layer = Linear(features, self.vectors.size, rngs=rngs, dtype=dtype)

    def __call__(self, features: jax.Array) -> dict[str, Distribution]:
        return self.vectors.predict(self.layer(features))


class Decoder(nnx.Module):
    """Features [deter, rest] (..., D + S) -> {name: distribution}."""

    def __init__(self, spec: DataSpec, sizes: DecoderSizes, *, rngs: nnx.Rngs, dtype: jnp.dtype):
        self.images, self.deter = tuple(image_keys(spec)), sizes.deter
        self.shapes = tuple(spec.observations[key].shape for key in self.images)
        self.has_vectors = bool(vector_keys(spec))
        if self.has_vectors:
            self.hidden = MLP(sizes.features, sizes.units, 3, rngs=rngs, dtype=dtype)
            self.output = LinearDecoder(spec, sizes.units, rngs=rngs, dtype=dtype)
        if self.images:
            self.image = ImageDecoder(spec, sizes, rngs=rngs, dtype=dtype)

    def __call__(self, features: jax.Array) -> dict[str, Distribution]:
        predictions: dict[str, Distribution] = {}
        if self.has_vectors:
            predictions |= self.output(self.hidden(features))
        if self.images:
            flat = features.reshape(-1, features.shape[-1])
            pixels = self.image(flat[:, : self.deter], flat[:, self.deter :])
            pixels = pixels.reshape(*features.shape[:-1], *pixels.shape[1:])
            ends = np.cumsum([shape[-1] for shape in self.shapes])
            parts = jnp.split(pixels, ends[:-1], -1)
            for key, part, shape in zip(self.images, parts, self.shapes, strict=True):
                predictions[key] = ImageMSE(crop(part, shape))
        return predictions
