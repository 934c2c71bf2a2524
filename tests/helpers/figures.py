"""What a reader finds on a figure."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.text import Text


def texts(figure: Figure) -> list[str]:
    """Every text on the figure."""
    figure.draw_without_rendering()
    return [text.get_text() for text in figure.findobj(Text) if isinstance(text, Text)]


def points(axes: Axes, *, marker: str = "", color: str = "") -> list[np.ndarray]:
    """Each line with this marker or this colour: its points, a row each: x, y."""
    lines = [line for line in axes.get_lines() if marker in ("", line.get_marker()) and color in ("", line.get_color())]
    return [np.column_stack([line.get_xdata(), line.get_ydata()]) for line in lines]


def bars(axes: Axes) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each line with error bars: its points, a row each: x, y; and both ends of its first bar, the same."""
    found = [container.lines for container in axes.containers if isinstance(container, ErrorbarContainer)]
    return [
        (np.column_stack(line.get_data()).astype(float), np.array(ends[0].get_segments()[0], float))
        for line, _, ends in found
    ]
