"""What scores of all tasks have in common."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from onepass.features.tables import Record, html_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Score(ABC):
    """A head's score on images.

    Attributes:
        measured_on: Which images: "test", "val", ...
        n: How many.
    """

    measured_on: str
    n: int

    @abstractmethod
    def __str__(self) -> str:
        """The headline, with its 95 % interval."""

    @abstractmethod
    def details(self) -> str:
        """What stands below the headline."""

    @abstractmethod
    def rows(self) -> list[list[str]]:
        """A table of it, its heading first."""

    @abstractmethod
    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Its figure, drawn on axes of Matplotlib, or in a figure of its own; nothing of pyplot is touched.

        Raises:
            OptionError: What it would be drawn of was not kept.
        """

    def _title(self) -> str:
        return f"{self.measured_on}: {self.headline()}"

    @property
    @abstractmethod
    def without_copies(self) -> str:
        """The score without copies of training images, in words; "" if there are none, or nobody looked."""

    def confusions(self) -> str:
        """Who is taken for whom; "" where nobody can be."""
        return ""

    def record(self) -> Record:
        """The same as plain values, for JSON."""
        return asdict(self)

    def headline(self) -> str:
        """`str`, whatever a subclass adds to it."""
        return str(self)

    def _repr_html_(self) -> str:
        return html_table(self.rows(), title=self._title())
