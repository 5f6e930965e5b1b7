"""The learning rate range test (Smith 2017): raise the rate step by step, and see where learning turns into harm."""

import copy
import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from lightning_fabric.utilities import move_data_to_device
from torch import nn

from registry.errors import TrainingError
from tasks.progress import OnProgress, Progress, ignore

LOWEST, HIGHEST, STEPS = 1e-5, 0.1, 60
SMOOTH = 0.8  # share of the past in the smoothed loss
HARM = 3.0  # the loss may grow to that many times its least before the test ends


def find_rate(
    network: nn.Module, batches: Iterable[Any], *, device: Any = "cpu", on_progress: OnProgress = ignore
) -> float:
    """The rate at which AdamW learns fastest, by a copy of the network; `network` stays as it is.

    Raises TrainingError when the loss is no number from the start.
    """
    trial = copy.deepcopy(network).to(device).train()
    parameters = [p for p in trial.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LOWEST)
    smooth = 0.0
    rates: list[float] = []
    losses: list[float] = []
    passes = itertools.chain.from_iterable(itertools.repeat(batches))  # `cycle` would keep every batch in memory
    for step, (images, targets, _) in enumerate(itertools.islice(passes, STEPS)):
        rate = LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1))
        optimizer.param_groups[0]["lr"] = rate
        loss = trial.loss(*move_data_to_device((images, targets), device))  # type: ignore[operator]
        if not bool(torch.isfinite(loss)):
            break
        smooth = SMOOTH * smooth + (1 - SMOOTH) * float(loss.detach())
        rates.append(rate)
        losses.append(smooth / (1 - SMOOTH ** (step + 1)))
        if losses[-1] > HARM * min(losses):
            break
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()
        on_progress(Progress("find the learning rate", step + 1, STEPS, "steps", f"rate {rate:.1e}"))
    if not losses:
        do = "look for broken values in the imagery, or give a learning_rate"
        raise TrainingError("the loss is no number at any learning rate", do=do)
    return float(f"{_steepest(rates, losses):.1e}")


def _steepest(rates: list[float], losses: list[float]) -> float:
    """Where the loss falls fastest on its way to the least: rates grow evenly on a logarithmic scale."""
    way = np.array(losses[: int(np.argmin(losses)) + 1])
    return rates[int(np.gradient(way).argmin())] if len(way) > 1 else rates[0]
