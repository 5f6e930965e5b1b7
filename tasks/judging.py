"""What a network answers for a batch in training, counted as held-out chips are."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.scores import DetectionScores, ObjectScores, Tally

SEEN = 0.5  # probability from which a pixel belongs to a mask, and a label to an object of several


def judge(tally: Tally, found: Any, targets: Any, never: Sequence[int] = ()) -> None:
    """`found` is what the network's forward gave, `targets` as its loss takes them; see `tasks.networks`.

    `never`: indexes of classes, background 0, that no pixel gets.
    """
    if isinstance(tally, DetectionScores):
        _objects(tally, found, targets)
    elif isinstance(tally, ObjectScores):
        _labels(tally, found, targets)
    else:
        for k in never:
            found[:, k] = -float("inf")
        for mask, truth in zip(found.max(1)[1], targets, strict=True):
            tally.add(mask.cpu().numpy(), truth.cpu().numpy())  # type: ignore[attr-defined]


def _objects(tally: DetectionScores, found: Sequence[dict[str, Tensor]], targets: Sequence[dict[str, Tensor]]) -> None:
    for one, truth in zip(found, targets, strict=True):
        boxes, scores, true = (_array(v) for v in (one["boxes"], one["scores"], truth["boxes"]))
        labels, true_labels = (v.cpu().numpy().astype(np.int64) for v in (one["labels"], truth["labels"]))
        masks = {}
        if "masks" in one and "masks" in truth:
            masks = {"masks": _array(one["masks"]) >= SEEN, "true_masks": truth["masks"].cpu().numpy().astype(bool)}
        tally.add(boxes, labels, scores, true, true_labels, **masks)


def _labels(tally: ObjectScores, logits: Tensor, targets: Tensor) -> None:
    shares = logits.float().sigmoid() if tally.multilabel else logits.float().softmax(1)
    for share, truth in zip(shares.cpu(), targets.cpu(), strict=True):
        chosen = (share >= SEEN).nonzero().flatten() if tally.multilabel else share.argmax()[None]
        true = truth.nonzero().flatten() if tally.multilabel else truth[None]
        tally.add((chosen + 1).numpy(), (true + 1).numpy(), share[chosen].numpy())


def _array(values: Tensor) -> Any:
    return torch.as_tensor(values).detach().float().cpu().numpy()
