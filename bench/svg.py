"""Plots small enough to be written by hand: bars and lines as SVG, readable on white and on black."""

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH = 760
_LEFT, _RIGHT, _TOP, _ROW = 250, 110, 46, 24
_COLOURS = ("#3b82c4", "#d9822b", "#4c9f70", "#a25fb0")
_GREY = "#8a8f98"


def _page(height: int, title: str, body: Sequence[str]) -> str:
    lines = "\n".join(body)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="13">\n'
        f"<style>text {{ fill: #1f2328 }} @media (prefers-color-scheme: dark) {{ text {{ fill: #e6edf3 }} }}</style>\n"
        f'<text x="12" y="24" font-size="16" font-weight="bold">{escape(title)}</text>\n{lines}\n</svg>\n'
    )


def bars(title: str, groups: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """Horizontal bars in groups, each group to its own scale, the value in words behind each; ours in another colour."""
    body, y = [], _TOP
    for heading, values in groups:
        body.append(f'<text x="12" y="{y + 14}" fill="{_GREY}">{escape(heading)}</text>')
        y += _ROW
        most = max(values.values())
        for name, value in values.items():
            length = (WIDTH - _LEFT - _RIGHT) * value / most
            colour = _COLOURS[0] if name.startswith("pipeline") else _GREY
            body += [
                f'<text x="{_LEFT - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text>',
                f'<rect x="{_LEFT}" y="{y + 2}" width="{length:.1f}" height="{_ROW - 7}" rx="2" fill="{colour}"/>',
                f'<text x="{_LEFT + length + 6:.1f}" y="{y + 14}">{value:,.0f}</text>',
            ]
            y += _ROW
        y += _ROW // 2
    return _page(y, title, body)


def lines(
    title: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x: str,
    y: str,
    log_x: bool = False,
) -> str:
    """Lines over one pair of axes from zero (on a logarithmic x axis from the smallest value); `x` and `y` name the axes."""
    left, right, top, bottom, height = 70, 20, 74, 50, 340
    points = [point for its in series.values() for point in its]
    at = math.log10 if log_x else float
    x_low = at(min(point[0] for point in points)) if log_x else 0.0
    x_high = max(at(max(point[0] for point in points)), x_low + 1e-9)
    y_high = max(point[1] for point in points) * 1.05 or 1.0

    def place(point: tuple[float, float]) -> tuple[float, float]:
        across = (at(point[0]) - x_low) / (x_high - x_low)
        return left + across * (WIDTH - left - right), height - bottom - point[1] / y_high * (height - top - bottom)

    body = [
        f'<path d="M{left} {top} V{height - bottom} H{WIDTH - right}" fill="none" stroke="{_GREY}"/>',
        f'<text x="{(left + WIDTH) / 2}" y="{height - 12}" text-anchor="middle">{escape(x)}</text>',
        f'<text x="12" y="{top - 10}" fill="{_GREY}">{escape(y)}</text>',
    ]
    for part in range(5):
        value = y_high * part / 4
        across = x_low + (x_high - x_low) * part / 4
        _, down = place((10**x_low if log_x else 0.0, value))
        body.append(f'<text x="{left - 8}" y="{down + 4:.1f}" text-anchor="end">{_short(value)}</text>')
        over, _ = place((10**across if log_x else across, 0.0))
        shown = _short(10**across if log_x else across)
        body.append(f'<text x="{over:.1f}" y="{height - bottom + 18}" text-anchor="middle">{shown}</text>')
    for number, (name, its) in enumerate(series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(f"{over:.1f},{down:.1f}" for over, down in map(place, its))
        body.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        at_x = left + number * 160
        body.append(f'<rect x="{at_x}" y="40" width="12" height="12" rx="2" fill="{colour}"/>')
        body.append(f'<text x="{at_x + 18}" y="51">{escape(name)}</text>')
    return _page(height, title, body)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
