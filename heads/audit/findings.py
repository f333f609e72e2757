"""What an inspection finds, one class for each kind."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """An image, and where it lies.

    Attributes:
        path: Relative to the image folder.
        split: train, val or test.
        label: Its class.
    """

    path: str
    split: str
    label: str

    def __str__(self) -> str:
        return f"{self.path} ({self.split})"


@dataclass(frozen=True)
class NearDuplicate:
    """Two images that are nearly the same picture.

    Attributes:
        image, other: The two.
        cosine: How alike, see `near_duplicates`.
    """

    image: Place
    other: Place
    cosine: float

    @property
    def across_splits(self) -> bool:
        return self.image.split != self.other.split

    @property
    def across_classes(self) -> bool:
        return self.image.label != self.other.label


@dataclass(frozen=True)
class LabelError:
    """An image whose label is probably wrong.

    Attributes:
        image: With the label that it has.
        suggested: The class that heads which did not see it hold for most probable.
        confidence: Probability of the label that it has.
        suggested_confidence: Probability of the suggested one.
    """

    image: Place
    suggested: str
    confidence: float
    suggested_confidence: float


@dataclass(frozen=True)
class Outlier:
    """An image unlike all others.

    Attributes:
        image: Which.
        distance: Mean cosine distance to the 10 nearest training images.
        score: How unusual that is, in robust standard deviations of the log distance.
    """

    image: Place
    distance: float
    score: float
