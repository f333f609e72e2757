"""A result's figure as a file: PNG, SVG or PDF."""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from onepass.extract import import_matplotlib
from onepass.features.atomic import replacing
from onepass.features.errors import OutputError, cannot_write, opt
from onepass.features.places import require_place

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FIGURES = (".png", ".svg", ".pdf")


class Plotted(Protocol):
    """A result that can be drawn."""

    def plot(self, ax: "Axes | None" = None) -> "Axes": ...


def require_plot(path: str | Path | None) -> None:
    """Refuses a place for a figure, before the work that is to be drawn; None is no place and right.

    Raises:
        OptionError: The name has another ending, is taken, or its folder is not there.
        OutputError: The folder may not be written.
    """
    if path is not None:
        require_place(path, endings=FIGURES, option="plot", fresh=True)


def save_plot(result: Plotted, path: str | Path | None) -> None:
    """Writes the figure of a result; nothing where there is no place for one.

    The same result gives the same bytes with the same Matplotlib: no dates, and names of parts that are not drawn.

    Raises:
        OptionError: The result keeps nothing that could be drawn.
        OutputError: It cannot be written.
    """
    if path is None:
        return
    import_matplotlib()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    path = Path(path)
    dates = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}[path.suffix.lower()]
    figure = result.plot().figure
    assert isinstance(figure, Figure)
    try:
        with replacing(path) as beside, rc_context({"svg.hashsalt": "onepass", "text.usetex": False}):
            figure.savefig(beside, format=path.suffix[1:].lower(), dpi=200, metadata=dates)
    except OSError as error:
        raise OutputError(cannot_write(path, error, opt.plot), path=path) from None


def new_axes(width: float = 6.0, height: float = 4.0) -> "Axes":
    """Axes of a figure of their own, inches, which no state of pyplot knows."""
    import_matplotlib()
    from matplotlib.figure import Figure

    figure: Figure = Figure(figsize=(width, height), layout="constrained")
    return figure.add_subplot()


def pair_of_axes() -> "tuple[Axes, Axes]":
    """Two axes side by side in a figure of their own."""
    import_matplotlib()
    from matplotlib.figure import Figure

    left, right = Figure(figsize=(11.0, 4.0), layout="constrained").subplots(1, 2)
    return left, right
