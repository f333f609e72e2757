"""What a report is made of, before it is a page: sections of charts, pictures, tables and a map."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from onepass.features.tables import Record

Rows = Sequence[Sequence[str]]
"""A table as text, its heading first."""


class Part(Protocol):
    """A piece of a section."""

    def wanted(self) -> Iterator[tuple[int, int]]:
        """(rank, position in the feature file) of the images it shows; lower ranks come first if not all can be."""
        ...

    def record(self) -> Record:
        """The same as plain values, for JSON."""
        ...


@dataclass(frozen=True)
class Chart:
    """A drawing with the numbers behind it.

    Attributes:
        title: What it shows, as a heading.
        svg: The drawing.
        rows: Its numbers.
        note: How to read it, in a sentence or two.
    """

    title: str
    svg: str
    rows: Rows
    note: str = ""

    def wanted(self) -> Iterator[tuple[int, int]]:
        return iter(())

    def record(self) -> Record:
        return {"chart": self.title, "note": self.note, "table": [list(row) for row in self.rows]}


@dataclass(frozen=True)
class Table:
    """Numbers or names without a drawing."""

    title: str
    rows: Rows
    note: str = ""

    def wanted(self) -> Iterator[tuple[int, int]]:
        return iter(())

    def record(self) -> Record:
        return {"table": [list(row) for row in self.rows], "title": self.title, "note": self.note}


@dataclass(frozen=True)
class Card:
    """An image with what is said of it.

    Attributes:
        image: Position in the feature file; None where there is no picture.
        name: The image's name.
        title: What matters most, in a few words.
        words: The rest.
        beside: Other images to compare it with.
        caption: What these are.
        heat: (h, w, 3) uint8, the image with what the answer came from marked in it; None where nobody looked.
    """

    image: int | None
    name: str
    title: str = ""
    words: str = ""
    beside: tuple["Card", ...] = ()
    caption: str = ""
    heat: np.ndarray | None = None

    def record(self) -> Record:
        own = {"image": self.name, "title": self.title, "words": self.words}
        return own | ({"beside": [one.record() for one in self.beside]} if self.beside else {})


@dataclass(frozen=True)
class Cards:
    """Images side by side.

    Attributes:
        title: What they have in common.
        cards: The first matters most.
        note: More about them.
        rank: Of their pictures among all that are wanted.
        large: How many of the first are shown larger.
        pairs: Whether each is shown with one other of the same size.
    """

    title: str
    cards: Sequence[Card]
    note: str = ""
    rank: int = 5
    large: int = 0
    pairs: bool = False

    def wanted(self) -> Iterator[tuple[int, int]]:
        for card in self.cards:
            for one in (card, *card.beside):
                if one.image is not None:
                    yield self.rank, one.image

    def record(self) -> Record:
        return {"pictures": self.title, "note": self.note, "images": [card.record() for card in self.cards]}


@dataclass(frozen=True)
class Matrix:
    """Who is taken for whom.

    Attributes:
        names: k classes.
        counts: (k, k) images, true classes down, predicted ones across.
        cells: (true, predicted) -> the images of a cell.
    """

    names: Sequence[str]
    counts: np.ndarray
    cells: Mapping[tuple[int, int], Cards]

    def wanted(self) -> Iterator[tuple[int, int]]:
        for cell in self.cells.values():
            yield from cell.wanted()

    def record(self) -> Record:
        return {"confusion": self.counts.tolist(), "classes": list(self.names)}


@dataclass(frozen=True)
class Layout:
    """A way to lay rows out on a plane.

    Attributes:
        name: PCA or t-SNE.
        places: (m, 2) float64.
        note: What distances in it mean.
        explained: Share of the variance along each axis, where that means something.
    """

    name: str
    places: np.ndarray
    note: str
    explained: tuple[float, ...] = ()


@dataclass(frozen=True)
class Colouring:
    """What points are coloured by.

    Attributes:
        name: In a word or two.
        labels: What the codes stand for.
        codes: (m,) positions in `labels`.
        quiet: Labels that are drawn in grey.
    """

    name: str
    labels: Sequence[str]
    codes: np.ndarray
    quiet: Sequence[int] = ()


@dataclass(frozen=True)
class RowMap:
    """A map of rows, a point for each image.

    Attributes:
        positions: (m,) images.
        names: m names, as `shown`.
        labels: m label texts.
        layouts, colourings: The ways to look at it, the usual ones first.
        choices: Labels that a selection can be given; none where labels are no classes.
        column: What the labels are called in the table of a selection.
        command: What takes that table back.
        rows: Counts behind the map.
    """

    positions: np.ndarray
    names: Sequence[str]
    labels: Sequence[str]
    layouts: Sequence[Layout]
    colourings: Sequence[Colouring]
    choices: Sequence[str]
    column: str
    command: str
    rows: Rows

    def wanted(self) -> Iterator[tuple[int, int]]:
        return iter(())

    def record(self) -> Record:
        return {
            "map": [one.name for one in self.layouts],
            "explained": {one.name: list(one.explained) for one in self.layouts if one.explained},
            "images": [
                {
                    "image": name,
                    "label": label,
                    **{one.name: [round(float(v), 4) for v in one.places[i]] for one in self.layouts},
                    **{one.name: one.labels[one.codes[i]] for one in self.colourings},
                }
                for i, (name, label) in enumerate(zip(self.names, self.labels, strict=True))
            ],
        }


@dataclass(frozen=True)
class Section:
    """A part of the page under one headline.

    Attributes:
        name: For links to it, and in the list of contents.
        title: What was found, as a sentence.
        words: Paragraphs.
        parts: What is shown.
    """

    name: str
    title: str
    words: Sequence[str] = ()
    parts: Sequence[Part] = ()

    def record(self) -> Record:
        return {
            "section": self.name,
            "title": self.title,
            "words": list(self.words),
            "parts": [part.record() for part in self.parts],
        }


@dataclass(frozen=True)
class Story:
    """A whole report.

    Attributes:
        kicker: What it is about, in a line above the headline.
        title: The answer, as a headline.
        words: The paragraphs below.
        parts: Charts of the answer.
        steps: What to do next: words, and a command or "".
        sections: The rest.
    """

    kicker: str
    title: str
    words: Sequence[str]
    parts: Sequence[Part]
    steps: Sequence[tuple[str, str]]
    sections: Sequence[Section] = field(default_factory=tuple)

    def every_part(self) -> Iterator[Part]:
        yield from self.parts
        for section in self.sections:
            yield from section.parts

    def images(self) -> list[int]:
        """Positions of all images that are wanted, each once, those of the lowest rank first."""
        ranked = sorted(((rank, i, image) for i, (rank, image) in enumerate(self._wanted())), key=lambda one: one[:2])
        return list(dict.fromkeys(image for _, _, image in ranked))

    def _wanted(self) -> Iterator[tuple[int, int]]:
        for part in self.every_part():
            yield from part.wanted()

    def record(self) -> Record:
        """The same as plain values, for JSON."""
        return {
            "about": self.kicker,
            "title": self.title,
            "words": list(self.words),
            "answer": [part.record() for part in self.parts],
            "next": [{"words": words, "command": command} for words, command in self.steps],
            "sections": [section.record() for section in self.sections],
        }
