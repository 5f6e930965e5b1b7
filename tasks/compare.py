"""Compare: two models on the same chips, and whether the one is better than the other or only luckier.

Both are asked about every chip; then the chips are drawn again a thousand times, the same draw for both, and the
difference of their scores is counted each time. What chips have in common, easy or hard, cancels out.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from registry.dlpk import ModelFolder
from registry.errors import OptionsError
from tasks.bootstrap import Interval, draws, interval
from tasks.chips import ChipFolder
from tasks.exam import Exam, examine
from tasks.progress import OnProgress, ignore
from tasks.provenance import flattered, learnt


@dataclass(frozen=True)
class Comparison:
    """Model A against model B; a positive difference speaks for A."""

    primary: str  # the figure that decides; more is better
    a: float
    b: float
    interval: Interval  # of the difference a - b: 95 % of the draws lie in it
    surely: float  # share of the draws in which A is better, 0-1
    chips: int
    warnings: tuple[str, ...] = ()
    learnt: tuple[str, ...] = ()  # the sides that were trained on these chips

    @property
    def difference(self) -> float:
        return self.a - self.b

    @property
    def better(self) -> str:
        """ "a" or "b" when the whole interval is on its side, else "": these chips cannot tell them apart."""
        low, high = self.interval
        return "a" if low > 0 else "b" if high < 0 else ""

    def document(self) -> dict[str, Any]:
        told = {key: value for key, value in asdict(self).items() if value != ()}
        return {**told, "difference": self.difference, "better": self.better}


def compare_models(
    a: ModelFolder,
    b: ModelFolder,
    chips: ChipFolder,
    *,
    device: int = -1,
    trust: bool = False,
    on_progress: OnProgress = ignore,
) -> Comparison:
    """Score two models on the same chips; one that was trained on them is named in `warnings`. Nothing is written.

    `device`: -1 CPU, else the GPU's number. `trust`: as inference has it. Raises OptionsError when chips and models do
    not fit, there is one chip alone, the two are scored on other pixels, or one holds a stranger's code.
    """
    kinds = [str(model.emd.model_type) for model in (a, b)]
    if kinds[0] != kinds[1]:  # of instances the masks overlap, of objects the boxes
        do = "compare models of one type"
        raise OptionsError("the models do different things", where=b.path, got=kinds, do=do)
    one, two = (examine(model, chips, device=device, trust=trust) for model in (a, b))
    if len(one.names) < 2:
        raise OptionsError("is one chip, which tells no doubt", where=chips.path, do="compare them on more chips")
    if len({getattr(exam.tally, "background", None) for exam in (one, two)}) > 1:
        what = "one of the models counts background as a class, to the other it is unlabelled (ignore_classes 0)"
        do = "decide which is right for these chips, and compare two models of that kind"
        raise OptionsError(what, where=b.path, do=do)
    if one.ignored != two.ignored:
        what = "the models were not to learn the same classes (ignore_classes), so they are scored on others"
        got = [[chips.classes[i - 1].name for i in exam.ignored] for exam in (one, two)]
        raise OptionsError(what, where=b.path, got=got, do="compare models that ignore the same classes")
    found = compared(*(exam.sit(f"compare {side}", on_progress) for side, exam in (("a", one), ("b", two))))
    sides = {side: model.name for side, model in {"a": a, "b": b}.items() if learnt(model.path, chips)}
    return replace(found, warnings=tuple(flattered(name) for name in sides.values()), learnt=tuple(sides))


def compared(a: Exam, b: Exam) -> Comparison:
    """Two finished exams on the same chips. A figure that a draw cannot give counts as 0, for both alike."""
    again, as_it_is = draws(a.tally.chips), np.ones((1, a.tally.chips))
    primary = a.tally.compute().primary
    values = [np.nan_to_num(e.tally.resampled(as_it_is)["", primary])[0] for e in (a, b)]
    gains = np.subtract(*(np.nan_to_num(e.tally.resampled(again)["", primary]) for e in (a, b)))
    ends = interval(gains)
    assert ends is not None
    surely = float((gains > 0).mean())
    return Comparison(primary, float(values[0]), float(values[1]), ends, surely, a.tally.chips)
