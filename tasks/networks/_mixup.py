"""Mixup (Zhang et al. 2018): images are laid over one another, and the truth of both counts by its share."""

from typing import Any, Callable

import torch
from torch import Tensor

ALPHA = 0.4  # of the beta distribution that the shares are drawn from; small: mostly one of the two images


def mixup_loss(network: Any, criterion: "Callable[[Any, Tensor], Tensor]", images: Tensor, truth: Tensor) -> Tensor:
    """One number: of images (n, ...) and others of their batch, by what `criterion` makes of the answers to each."""
    share = float(torch.distributions.Beta(ALPHA, ALPHA).sample())
    order = torch.randperm(len(images), device=images.device)
    answers = network(share * images + (1 - share) * images[order])
    return share * criterion(answers, truth) + (1 - share) * criterion(answers, truth[order])
