"""The attacks by name: ONE ROW PER ATTACK, those of other packages too."""

from __future__ import annotations

from collections.abc import Iterable

from formless.errors import UnknownNameError, UserError
from formless.experiment.attacks.attack import Attack
from formless.experiment.attacks.quantization import quantization
from formless.experiment.attacks.relearning import relearning
from formless.registry import Registry

ATTACKS = Registry(
    "attack",
    "formless.attacks",
    Attack,
    (
        relearning("relearn_1", "Fine-tuned on 1 of its facts", 1),
        relearning("relearn_4", "Fine-tuned on 4 of its facts", 4),
        relearning("relearn_16", "Fine-tuned on 16 of its facts", 16),
        relearning("relearn_related", "Fine-tuned on text about its neighbors", None),
        quantization("q8_0", "Quantized to 8 bits (Q8_0)", "Q8_0"),
        quantization("q4_0", "Quantized to 4 bits (Q4_0)", "Q4_0"),
    ),
)


def choose_attacks(names: Iterable[str]) -> tuple[Attack, ...]:
    """Return the attacks of names and families, each once, in the order of the registry.

    Raises:
        UnknownNameError: No attack or family has such a name.
        UserError: No name is given.
    """
    wanted = set(names)
    families = {attack.family for attack in ATTACKS.values()}
    for name in sorted(wanted):
        if name not in {*families, *ATTACKS}:
            raise UnknownNameError("attack", name, [*families, *ATTACKS], where="--attacks")
    if not wanted:
        raise UserError("no attack is given", where="--attacks", remedy=f"give names such as {', '.join(sorted(families))}")
    return tuple(attack for attack in ATTACKS.values() if wanted & {attack.name, attack.family})
