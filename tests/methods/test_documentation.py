from __future__ import annotations

from typing import Literal

from pydantic import Field

from formless.methods.base import MethodConfig
from formless.methods.documentation import Setting, settings_of


class Parent(MethodConfig):
    """Shared settings.

    Args:
        rate: How fast, usually
            0.1 to 1.
        layers: Which.
    """

    rate: float = Field(gt=0, le=1)
    layers: tuple[int, ...] = (4, 5)


class Child(Parent):
    """Own settings.

    Args:
        mode: How.
    """

    rate: float = Field(default=0.5, gt=0, le=1)
    mode: Literal["a", "b"] = "a"


def test_settings_have_default_range_and_meaning() -> None:
    rate = Setting("rate", True, None, "greater than 0, at most 1", "How fast, usually 0.1 to 1.")
    layers = Setting("layers", False, [4, 5], None, "Which.")
    assert settings_of(Parent) == [rate, layers]
    own = Setting("rate", False, 0.5, rate.allowed, rate.meaning)
    assert settings_of(Child) == [own, layers, Setting("mode", False, "a", "a, b", "How.")]
