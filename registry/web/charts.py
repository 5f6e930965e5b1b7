"""Small drawings as numbers: what a template turns into SVG. Nothing here knows HTML."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    x: float
    y: float
    label: str
    value: float
    marked: bool = False


@dataclass(frozen=True)
class Trend:
    """A line from left to right in a box of `width` x `height`."""

    width: float
    height: float
    points: tuple[Point, ...]
    low: float
    high: float

    @property
    def path(self) -> str:
        return " ".join(f"{'M' if i == 0 else 'L'}{p.x:.1f} {p.y:.1f}" for i, p in enumerate(self.points))

    @property
    def area(self) -> str:
        if not self.points:
            return ""
        return f"{self.path} L{self.points[-1].x:.1f} {self.height:.1f} L{self.points[0].x:.1f} {self.height:.1f} Z"


def trend(
    values: Sequence[tuple[str, float, bool]], *, width: float = 160, height: float = 36, margin: float = 4
) -> Trend:
    """`values`: (label, value, whether it is marked), from the oldest on."""
    numbers = [value for _, value, _ in values]
    low, high = (min(numbers), max(numbers)) if numbers else (0.0, 1.0)
    spread = (high - low) or 1.0
    step = (width - 2 * margin) / max(len(values) - 1, 1)
    flat = high == low

    def place(i: int, value: float) -> tuple[float, float]:
        share = 0.5 if flat else (value - low) / spread
        return margin + i * step, height - margin - share * (height - 2 * margin)

    points = tuple(Point(*place(i, value), label, value, marked) for i, (label, value, marked) in enumerate(values))
    return Trend(width, height, points, low, high)


@dataclass(frozen=True)
class Whisker:
    """A value in its interval on an axis of 0 to 100."""

    value: float
    low: float | None
    high: float | None


def whisker(value: float, interval: Sequence[float] | None, axis: tuple[float, float]) -> Whisker:
    """Where value and interval lie between the ends of an axis, as percentages."""
    start, end = axis

    def share(number: float) -> float:
        return 100 * min(max((number - start) / ((end - start) or 1), 0), 1)

    ends = [share(number) for number in interval] if interval else [None, None]
    return Whisker(share(value), ends[0], ends[1])


def hex_color(color: Sequence[int]) -> str:
    """`#e63c28`; "" for a colour that is none, as definitions of exports have."""
    parts = list(color)
    if len(parts) != 3 or not all(isinstance(part, int) and 0 <= part <= 255 for part in parts):
        return ""
    return "#" + "".join(f"{part:02x}" for part in parts)
