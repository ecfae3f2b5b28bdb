"""Encoders and decoders of images of any height and width, and of several sizes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import FAMILIES, KEY, class_of, options_of
from flax import nnx

from worldmodel import models
from worldmodel.data.spec import ActionSpec, DataSpec, ObservationSpec
from worldmodel.data.windows import Window
from worldmodel.nn.codecs import Decoder, DecoderSizes, Encoder, crop, pad

Shapes = dict[str, tuple[int, int, int]]
SIZES = DecoderSizes(deter=8, rest=8, units=8, depth=1, blocks=2)
CAMERAS: dict[str, Shapes] = {
    "atari": {"image": (84, 84, 4)},
    "landscape": {"image": (72, 96, 3)},
    "gray": {"image": (32, 32, 1)},
    "two": {"wrist": (20, 36, 3), "front": (48, 24, 1)},
}
ON_IMAGES = [name for name in FAMILIES if class_of(name).supports_images]


def spec_of(shapes: Shapes) -> DataSpec:
    observations = {key: ObservationSpec(shape, "uint8") for key, shape in shapes.items()}
    return DataSpec(observations, ActionSpec(True, 3))


def random_images(shapes: Shapes, *batch: int) -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    return {k: jnp.asarray(rng.integers(0, 256, (*batch, *s), np.uint8)) for k, s in shapes.items()}


def encoder_of(spec: DataSpec) -> Encoder:
    return Encoder(spec, 8, 1, rngs=nnx.Rngs(params=0), dtype=jnp.float32)


def decoder_of(spec: DataSpec) -> Decoder:
    return Decoder(spec, SIZES, rngs=nnx.Rngs(params=0), dtype=jnp.float32)


@pytest.mark.parametrize("shapes", CAMERAS.values(), ids=CAMERAS)
def test_images_of_any_size_are_encoded_and_decoded(shapes: Shapes) -> None:
    spec = spec_of(shapes)
    encoder, decoder, images = encoder_of(spec), decoder_of(spec), random_images(shapes, 1, 2)
    assert jax.eval_shape(encoder, images).shape == (1, 2, encoder.size)
    predicted = jax.eval_shape(
        lambda features: {k: p.mean() for k, p in decoder(features).items()}, jnp.ones((1, 2, 16))
    )
    assert {key: image.shape[2:] for key, image in predicted.items()} == shapes


def test_the_last_row_and_column_of_each_image_are_seen() -> None:
    shapes = CAMERAS["two"]
    encoder, images = encoder_of(spec_of(shapes)), random_images(shapes, 1)
    encode = jax.jit(encoder)
    for key in shapes:
        changed = images | {key: images[key].at[:, -1, -1].set(255 - images[key][:, -1, -1])}
        assert bool(jnp.any(encode(changed) != encode(images))), key


def test_padding_costs_nothing() -> None:
    """The error of a prediction is that of the pixels of the image alone."""
    decoder = decoder_of(spec_of({"image": (20, 36, 3)}))
    prediction = jax.jit(decoder)(jnp.ones((1, 16)))["image"]
    target = prediction.mean().round().astype(jnp.uint8)
    assert prediction.mean().shape == (1, 20, 36, 3)
    assert float(prediction.loss(target)[0]) <= 20 * 36 * 3 * (0.5 / 255) ** 2


def test_images_of_multiples_of_16_are_neither_padded_nor_cropped() -> None:
    """So their programs are those of before there was padding."""
    image = jnp.zeros((2, 64, 32, 3))
    assert pad(image, (4, 2)) is image and crop(image, (64, 32, 3)) is image
    assert pad(image, (4, 3)).shape == (2, 64, 48, 3)


@pytest.mark.parametrize("name", ON_IMAGES)
def test_every_family_learns_images_of_two_sizes(name: str) -> None:
    """The loss and the predictions have the right shapes, whatever the sizes."""
    shapes, none = CAMERAS["two"], jnp.zeros((2, 8), bool)
    window = Window(
        observation=random_images(shapes, 2, 8),
        action=jnp.zeros((2, 8), jnp.int32),
        reward=jnp.zeros((2, 8)),
        is_first=none, is_last=none, is_terminal=none, mask=~none,
    )  # fmt: skip

    def learn(key: jax.Array, window: Window) -> tuple:
        model = models.build(options_of(name), spec_of(shapes), key)
        loss, (_, states) = model.loss(window, key)
        return loss, {k: p.mean() for k, p in model.observation(states).items()}

    loss, predicted = jax.eval_shape(learn, KEY, window)
    assert loss.shape == ()
    assert {key: image.shape[-3:] for key, image in predicted.items()} == shapes
