"""The registered families of world models and the datasets they are tested on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np
import pytest

from worldmodel.config import ModelOptions
from worldmodel.config.registry import schemas
from worldmodel.data.windows import Window
from worldmodel.models import WorldModel, family

KEY, OTHER_KEY = jax.random.key(0), jax.random.key(1)
ALL_FIELDS = ("observation", "action", "reward")


@dataclass(frozen=True)
class Facts:
    """What the tests expect of a family, beside the class variables of its class.

    options: that make it as small as possible
    random: which of loss, observe and step depend on their key
    has_memory: whether a filtered state depends on more than the current step
    untrained: prefixes of the names of parameters without gradient
    environment: the environment that it simulates, if it is not trained on the point
    variant_of: the registered family, for a variant with other options
    """

    options: dict[str, Any] = field(default_factory=dict)
    random: frozenset[str] = frozenset()
    has_memory: bool = True
    untrained: tuple[str, ...] = ()
    environment: str | None = None
    variant_of: str | None = None


RSSM = {"deter": 16, "hidden": 8, "classes": 4, "stoch": 4, "depth": 2, "blocks": 2}
ENCODED = {"burn_in": 1, "units": 8, "latent_dim": 8, "depth": 2}
DIFFUSION = {"latent_dim": 6, "sampler_steps": 2}
# A family that is not listed is tested with its default options.
FACTS = {
    "rssm": Facts(RSSM | {"free_nats": 0.0}, random=frozenset({"loss", "observe", "step"})),
    "koopman": Facts(ENCODED),
    "gru": Facts(ENCODED),
    "mlp": Facts(ENCODED),
    "diffusion": Facts(DIFFUSION | {"autoregressive_steps": 1}, random=frozenset({"loss", "step"})),
    "trajectory_diffusion": Facts(
        DIFFUSION | {"segment_length": 6},
        random=frozenset({"loss", "step"}),
        has_memory=False,
    ),
    "observed": Facts(has_memory=False),
    "ensemble": Facts(
        {"num_members": 3, "num_elites": 2, "units": 8, "layers": 1},
        random=frozenset({"step"}),
        has_memory=False,
        untrained=("errors", "salt"),
    ),
    "oracle": Facts({"environment": "Pendulum-v1"}, has_memory=False, environment="Pendulum-v1"),
    "koopman_blocks": Facts(
        ENCODED | {"spectrum": "blocks", "bilinear": True}, variant_of="koopman"
    ),
    "mlp_linear_skip": Facts(ENCODED | {"linear_skip": True}, variant_of="mlp"),
}


@dataclass(frozen=True)
class Case:
    """A dataset of the point: its observations, and the normalization of each vector."""

    observations: tuple[str, ...]
    discrete: bool = False
    parts: bool = False  # actions of several parts
    has_reward: bool = True
    normalization: dict[str, str] = field(default_factory=dict)


CASES = {
    "vector": Case(("motion",)),
    "discrete": Case(
        ("position", "motion"),
        discrete=True,
        normalization={"position": "standardize", "motion": "min_max"},
    ),
    "no_reward": Case(("motion",), has_reward=False),
    "image": Case(("image",)),
    "mixed": Case(("position", "motion", "image"), discrete=True),
    "parts": Case(("motion",), parts=True),
}
FAMILIES = tuple(schemas("model"))
VARIANTS = tuple(name for name, facts in FACTS.items() if facts.variant_of)


def facts_of(name: str) -> Facts:
    return FACTS.get(name, Facts())


def options_of(name: str) -> ModelOptions:
    facts = facts_of(name)
    return schemas("model")[facts.variant_of or name](**facts.options)


def class_of(name: str) -> type[WorldModel]:
    return family(options_of(name))


def on(
    *cases: str,
    always: tuple[str, ...] = (),
    only: str | None = None,
    families: tuple[str, ...] | None = None,
) -> Any:
    """Parametrizes `subject` by every family or variant and every one of the cases that it
    supports. Cases that are not in `always` are slow: python -m pytest -m slow tests/models.

    only: a class variable that is true for the families to test
    families: those for which `always` holds; None: all
    """
    pairs = [
        pytest.param(
            (name, case),
            id=f"{name}-{case}",
            marks=() if case in always and name in (families or (name,)) else pytest.mark.slow,
        )
        for name in FAMILIES + VARIANTS
        for case in cases
        if class_of(name).supports_images or "image" not in CASES[case].observations
        if only is None or getattr(class_of(name), only)
        if case == "vector" or facts_of(name).environment is None
    ]
    return pytest.mark.parametrize("subject", pairs, indirect=True)


def timestep(tree: Any, t: int | slice) -> Any:
    """The arrays (B, T, ...) at step `t`."""
    return jax.tree.map(lambda x: x[:, t], tree)


def assert_close(a: Any, b: Any, tolerance: float = 1e-5) -> None:
    """Equal up to rounding: `tolerance`, relative to each number or to the array's largest one."""

    def check(x: Any, y: Any) -> None:
        largest = max(1.0, float(np.abs(np.asarray(y, float)).max(initial=0.0)))
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance * largest)

    jax.tree.map(check, a, b)


def max_difference(a: Any, b: Any) -> float:
    differences = jax.tree.map(
        lambda x, y: float(np.abs(np.subtract(x, y, dtype=float)).max()), a, b
    )
    return max(jax.tree.leaves(differences))


def modified(window: Window, steps: slice, fields: tuple[str, ...]) -> Window:
    """The window with other numbers in these fields and steps."""

    def modify(x: np.ndarray) -> np.ndarray:
        other = {"f": -x - 0.3, "i": (x + 1) % 3, "u": 255 - x}[x.dtype.kind].astype(x.dtype)
        within = np.isin(np.arange(x.shape[1]), np.arange(x.shape[1])[steps])
        return np.where(within.reshape(1, -1, *[1] * (x.ndim - 2)), other, x)

    return replace(window, **{name: jax.tree.map(modify, getattr(window, name)) for name in fields})
