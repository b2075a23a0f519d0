"""SVG plots: panels of curves on logarithmic axes."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 230, 220
_LEFT, _TOP, _GAP, _BOTTOM = 60, 62, 36, 46

# Distinct for colour-blind readers, on a white and on a black background.
_COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#999999")

_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))

_STYLE = """\
text { font: 12px system-ui, sans-serif; fill: #333 }
.title { font-weight: 600 }
.grid { stroke: #ddd }
@media (prefers-color-scheme: dark) { text { fill: #ccc } .grid { stroke: #444 } }"""


@dataclass(frozen=True, slots=True)
class Panel:
    """One diagram: curves by name, each with a value in seconds for each x."""

    x_title: str
    xs: Sequence[int]
    curves: Mapping[str, Sequence[float]]


def plot(title: str, panels: Sequence[Panel]) -> str:
    """Return the SVG: panels in a row that share the time axis and the legend."""
    values = [value for panel in panels for curve in panel.curves.values() for value in curve]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    names = list(dict.fromkeys(name for panel in panels for name in panel.curves))
    colours = dict(zip(names, _COLOURS, strict=False))
    width = _LEFT + len(panels) * (_WIDTH + _GAP)
    height = _TOP + _HEIGHT + _BOTTOM
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style>",
        _text(_LEFT, 18, title, "title"),
        *_legend(colours),
    ]
    for i, panel in enumerate(panels):
        left = _LEFT + i * (_WIDTH + _GAP)
        lines.extend(_panel(panel, left, (low, high), colours, has_labels=i == 0))
    return "\n".join([*lines, "</svg>", ""])


def _legend(colours: Mapping[str, str]) -> Iterator[str]:
    x = _LEFT
    for name, colour in colours.items():
        yield f'<path d="M{x} 38h18" stroke="{colour}" stroke-width="2.5"/>'
        yield _text(x + 23, 42, name)
        x += 44 + 7 * len(name)


def _panel(
    panel: Panel, left: float, decades: tuple[int, int], colours: Mapping[str, str], *, has_labels: bool
) -> Iterator[str]:
    low, high = decades
    span = math.log10(max(panel.xs) / min(panel.xs)) or 1.0

    def x_of(x: float) -> float:
        return left + _WIDTH * math.log10(x / min(panel.xs)) / span

    def y_of(seconds: float) -> float:
        return _TOP + _HEIGHT * (high - math.log10(seconds)) / (high - low)

    for decade in range(low, high + 1):
        line = y_of(10**decade)
        yield f'<path class="grid" d="M{left} {line:.1f}h{_WIDTH}"/>'
        if has_labels:
            yield _text(left - 8, line + 4, _duration(decade), anchor="end")
    for x in panel.xs:
        yield _text(x_of(x), _TOP + _HEIGHT + 18, f"{x:,}", anchor="middle")
    yield _text(left + _WIDTH / 2, _TOP + _HEIGHT + 38, panel.x_title, anchor="middle")
    for name, curve in panel.curves.items():
        points = [f"{x_of(x):.1f},{y_of(value):.1f}" for x, value in zip(panel.xs, curve, strict=True)]
        yield f'<polyline points="{" ".join(points)}" fill="none" stroke="{colours[name]}" stroke-width="2"/>'
        for point in points:
            yield f'<path d="M{point}h0" stroke="{colours[name]}" stroke-width="6" stroke-linecap="round"/>'


def _text(x: float, y: float, text: str, style: str = "", anchor: str = "start") -> str:
    kind = f' class="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}>{escape(text)}</text>'


def _duration(decade: int) -> str:
    size, unit = next(((size, unit) for size, unit in _UNITS if 10**decade >= size * 0.99), _UNITS[-1])
    return f"{10**decade / size:.3g} {unit}"
