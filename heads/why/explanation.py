"""What an explanation says: of one image, and of several with where their pictures are."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import overload

import numpy as np
from PIL import Image

from onepass.extract import ImageFile, decode_whole, depth_of, read_bytes
from onepass.features import NUMBER, SkippedImage, Spec
from onepass.features.atomic import replacing
from onepass.features.errors import OutputError, cannot_write, opt
from onepass.features.names import shown
from onepass.features.places import require_place
from onepass.features.preprocess import ResizeRule
from onepass.features.tables import Record, html_table
from onepass.heads.why.picture import overlaid, placed

PICTURES = (".png", ".webp")


@dataclass(frozen=True, eq=False)
class Explanation:
    """Where in an image the score of a class comes from.

    Attributes:
        path: The image as it was named.
        class_name: The class that is explained; of a head of numbers, what the number is.
        output: Its probability, or the number.
        logit: Its score: what softmax or sigmoid takes, temperature of the calibration included, or the number.
        heat: (h, w) float64. exact: what each position adds to the logit, against the mean training row; with
            `intercept` and `constant` these add up to it. occlusion: by how much `output` falls where the position is
            hidden.
        method: exact or occlusion.
        intercept: exact: the score of the mean training row. occlusion: None.
        constant: exact: what columns of the row add that are no mean over positions, such as a class token.
        task: Of the head.
        spec: How the image was seen.
        image: What it is read from.
        picture: Where its picture was written, if it was.
    """

    path: str
    class_name: str
    output: float
    logit: float
    heat: np.ndarray
    method: str
    intercept: float | None = None
    constant: float = 0.0
    task: str = ""
    spec: Spec | None = field(default=None, repr=False)
    image: ImageFile | None = field(default=None, repr=False)
    picture: Path | None = None

    def __str__(self) -> str:
        value = f"{self.output:.4g}" if self.task == NUMBER else f"{self.output:.3f}"
        return f"{shown(self.path)}  {shown(self.class_name)} {value}  {self.words()}"

    def words(self) -> str:
        """What was found, in a few words."""
        if self.intercept is None:
            return f"{np.abs(self.heat).max():.3f} at most where a place is hidden"
        beside = f" {_added(self.constant)} of no place" if self.constant else ""
        return f"score {self.logit:.3f} = {self.heat.sum():.3f} over the places{beside} {_added(self.intercept)}"

    def heat_on(self, width: int, height: int, *, like: tuple[int, int] | None = None) -> np.ndarray:
        """Heat in the coordinates of the image, resizing and cutting undone.

        Args:
            width, height: Of the result.
            like: Width and height of the image, where the result has another size.

        Returns:
            (height, width) float32; NaN where the network sees nothing of the image.
        """
        assert self.spec is not None
        own = like or (width, height)
        box = ResizeRule.parse(self.spec.resize).box(*own, self.spec.image_size)
        x, y = width / own[0], height / own[1]
        return placed(self.heat, (box[0] * x, box[1] * y, box[2] * x, box[3] * y), (width, height))

    def overlay(self, *, longest: int = 1024) -> Image.Image:
        """The image in grey, what speaks for the class in red and what speaks against it in blue.

        Args:
            longest: Most pixels along the longer side; larger images are reduced.

        Raises:
            UnreadableImageError: The image is not there any more.
        """
        assert self.spec is not None
        assert self.image is not None
        whole = decode_whole(read_bytes(self.image), resize=self.spec.resize, depth=depth_of(self.spec.decode))
        photo = Image.fromarray(np.rint(whole).astype(np.uint8))
        size = photo.size
        photo.thumbnail((longest, longest), reducing_gap=2)
        return overlaid(photo, self.heat_on(*photo.size, like=size))

    def save(self, path: str | Path) -> None:
        """Writes `overlay` as a PNG or WebP file; a file that is there is left alone.

        Raises:
            OptionError: The name has another ending, is taken, or its folder is not there.
            OutputError: It cannot be written.
        """
        path = Path(path)
        require_place(path, endings=PICTURES, fresh=True)
        picture = self.overlay()
        try:
            with replacing(path) as beside:
                write_picture(picture, beside, path)
        except OSError as error:
            raise OutputError(cannot_write(path, error, opt.out), path=path) from None

    def _repr_png_(self) -> bytes | None:
        return self.overlay()._repr_png_()

    def record(self) -> Record:
        """The same as plain values, for JSON."""
        return {
            "path": self.path,
            "class": self.class_name,
            "output": self.output,
            "logit": self.logit,
            "intercept": self.intercept,
            "constant": self.constant,
            "method": self.method,
            "heat": self.heat.tolist(),
            "picture": str(self.picture) if self.picture else None,
        }


def _added(value: float) -> str:
    return f"{'-' if value < 0 else '+'} {abs(value):.3f}"


def write_picture(picture: Image.Image, place: Path, named: Path) -> None:
    """Writes a picture to a place that becomes the named one.

    Raises:
        OutputError: It cannot be written.
    """
    try:
        picture.save(place, quality=90, compress_level=3)  # of WebP, and of PNG
    except OSError as error:
        raise OutputError(cannot_write(named, error, opt.out), path=named) from None


@dataclass(frozen=True)
class Explanations(Sequence[Explanation]):
    """Explanations of some images, in their order; those that could not be read are left out.

    Attributes:
        found: One for each image that could be read.
        method: exact or occlusion.
        reason: Why it is not exact; empty if it is.
        passes: Images that went through the network for one image.
        skipped: Those that could not be read, with the reason.
        out: Folder of the pictures; None if there are none.
    """

    found: list[Explanation]
    method: str
    reason: str
    passes: int
    skipped: list[SkippedImage] = field(default_factory=list)
    out: Path | None = None

    @overload
    def __getitem__(self, place: int) -> Explanation: ...
    @overload
    def __getitem__(self, place: slice) -> list[Explanation]: ...
    def __getitem__(self, place: int | slice) -> Explanation | list[Explanation]:
        return self.found[place]

    def __len__(self) -> int:
        return len(self.found)

    def __str__(self) -> str:
        lines = [str(one) for one in self]
        if self.out:
            count = "1 picture" if len(self) == 1 else f"{len(self)} pictures"
            lines.append(f"{shown(self.out)}: {count}, red for the class, blue against it")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = [[one.path, one.class_name, f"{one.output:.3f}", one.words()] for one in self]
        return html_table([["image", "class", "output", self.method], *rows])

    def record(self) -> Record:
        """The same as plain values, for JSON."""
        return {
            "method": self.method,
            "reason": self.reason,
            "passes": self.passes,
            "explanations": [one.record() for one in self],
            "skipped": [asdict(image) for image in self.skipped],
            "out": str(self.out) if self.out else None,
        }
