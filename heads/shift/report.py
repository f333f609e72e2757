"""What `shift` found, in words and as plain values."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from onepass.features import SkippedImage
from onepass.features.names import shown
from onepass.features.tables import Record, command_line, fitted_table, html_table, wrapped
from onepass.heads.shift.accuracy import Estimate, Share
from onepass.heads.shift.recentring import Recentring
from onepass.heads.shift.two_sample import Detectable
from onepass.heads.stats.intervals import Difference

SHOWN = 10
"""Images that are named in the text; all are in the record."""


@dataclass(frozen=True)
class DifferentImage:
    """A new image.

    Attributes:
        path: As its folder or file calls it.
        score: How new it looks to a classifier that has not seen it, in standard deviations of the training images.
    """

    path: str
    score: float


@dataclass(frozen=True)
class AccuracyShift:
    """What a shift does to the accuracy of a head.

    Attributes:
        held_out: On images of the training's feature file that the head has not seen, without copies.
        measured_on: Which of its parts these are.
        new: On the new images that have labels, without copies of training images; None without labels.
        copies: New images left out because they are copies of training images.
        shared: Held-out images that are among the new ones, which are then compared with themselves.
        difference: New less held-out, with p; None likewise.
        detectable: True difference that would have been found in about four of five cases; None likewise.
        estimated: What the head's confidence says of the new images, without a look at labels.
    """

    held_out: Share
    measured_on: str
    new: Share | None
    copies: int
    shared: int
    difference: Difference | None
    detectable: float | None
    estimated: Estimate

    def lines(self) -> list[str]:
        """In words."""
        found = [f"accuracy on held-out images ({self.measured_on}): {self.held_out}"]
        if self.new and self.difference:
            gap, (low, high) = self.difference.difference, self.difference.interval
            seen = f"one of {self.detectable:.3f} would have been found in four of five cases"
            found += [
                f"accuracy on the new images: {self.new}",
                f"difference: {gap:+.3f} ({low:+.3f} to {high:+.3f}), p {self.difference.p:.2g}; {seen}",
            ]
            if self.copies:
                found.append(f"left out of that: {self.copies} copies of training images")
            if self.shared:
                found.append(f"{self.shared} of the held-out images are among the new ones: give others to learn more")
        else:
            found.append("accuracy on the new images: not measured, because they have no labels that the head knows")
        found.append(f"estimated from confidence alone ({self.estimated.method}): {self.estimated}")
        return found


@dataclass(frozen=True)
class Shift:
    """How far new images lie from those of the training, and what that does.

    Attributes:
        features: The feature file of the training.
        data: The new images.
        n: New images.
        training: Images of the training that they are compared with.
        copies: New images that are copies of these.
        auc: Share of the pairs of a training and a new image that a classifier puts in order; see `TwoSampleTest`.
        p: Of "both come from one distribution".
        permutations: By which p was found.
        found: Whether there is a shift.
        detectable: Which shift would have been found in four of five cases.
        images: All new images, the most different first.
        head: The head file; "" without one.
        accuracy: What that does to it; None without one.
        recentring: What recentring it did; None without one.
        out: The recentred head, if it was kept and asked for; else "".
        sheet: The picture of the images that look newest; "" if none was asked for.
        skipped: New images that could not be read.
    """

    features: str
    data: str
    n: int
    training: int
    copies: int
    auc: float
    p: float
    permutations: int
    found: bool
    detectable: Detectable
    images: list[DifferentImage]
    head: str = ""
    accuracy: AccuracyShift | None = None
    recentring: Recentring | None = None
    out: str = ""
    sheet: str = ""
    skipped: list[SkippedImage] = field(default_factory=list)

    def __str__(self) -> str:
        copies = f"; {self.copies} of the new ones are copies of these" if self.copies else ""
        beside = f"{self.training} training images of {shown(self.features)}{copies}"
        lines = [
            f"{shown(self.data)}: {self.n} images beside {beside}",
            self._verdict(),
            self._power(),
        ]
        if self.found:
            lines += ["", "most different", fitted_table(self._rows()), ""]
        lines += self.accuracy.lines() if self.accuracy else []
        lines += [str(self.recentring)] if self.recentring else []
        lines += [f"{shown(self.out)}: the recentred head"] if self.out else []
        lines += [f"{shown(self.sheet)}: the images that look newest"] if self.sheet else []
        return "\n".join(line if "\n" in line else wrapped(line, indent=2, width=100) for line in lines)

    def _verdict(self) -> str:
        told = f"a classifier tells new from old in {self.auc:.1%} of the pairs (50 % is luck), p {self.p:.2g}"
        return f"shift: {'yes' if self.found else 'none found'}; {told} by {self.permutations} permutations"

    def _power(self) -> str:
        if self.detectable.auc > 1:
            return "power: with so few images no shift, however large, is found in four of five cases"
        move = self.detectable.move
        as_move = f", as where all rows move by {move:.2g} standard deviations" if move < float("inf") else ""
        return f"power: one of {self.detectable.auc:.1%} of the pairs would be found in four of five cases{as_move}"

    def _rows(self) -> list[list[str]]:
        return [["image", "score"], *([one.path, f"{one.score:.2f}"] for one in self.images[:SHOWN])]

    def _repr_html_(self) -> str:
        return html_table(self._rows(), title=f"{self.data}: {self._verdict()}")

    @property
    def next_command(self) -> str:
        """What to do next, as it is typed."""
        if self.out:
            return command_line("onepass", "evaluate", Path(self.out), Path(self.data))
        return (
            ""
            if self.head
            else command_line("onepass", "shift", Path(self.features), Path(self.data), "--head", "HEAD")
        )

    def record(self) -> Record:
        """The same as plain values, for JSON; what is infinite is None."""
        found = asdict(self)
        found["detectable"] = {
            name: value if value < float("inf") else None for name, value in asdict(self.detectable).items()
        }
        return found
