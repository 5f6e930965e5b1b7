"""How a verb tells that it is getting on: it calls a function, and knows nothing of who listens."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """`done` of `total` things of a kind, and what is worth saying about them now."""

    step: str  # "train", "detect objects": what runs
    done: int
    total: int
    unit: str = ""  # "chips", "steps", "tiles"
    note: str = ""  # "epoch 3: validation loss 0.41"


@dataclass(frozen=True)
class Epoch:
    """What one training epoch gave; `number` counts from 0."""

    number: int
    total: int
    metrics: Mapping[str, float]  # training_loss, validation_loss, learning_rate and the scores of the task
    seconds: float


OnProgress = Callable[[Progress], None]
OnEpoch = Callable[[Epoch], None]


def ignore(_: object) -> None:
    """Nobody listens."""
