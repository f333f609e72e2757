"""Some images with their labels and the very pixels that a network gets of them."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from onepass.extract.backbones.load import conversion_of
from onepass.extract.data.source import Source
from onepass.extract.data.stores import Store
from onepass.extract.pixels.decode import checked_depth, decode, depth_of, require_views
from onepass.extract.pixels.image_bytes import read_bytes
from onepass.extract.pixels.views import Augmentation
from onepass.features import SPLITS, FeatureFile, ImageTable, SkippedImage
from onepass.features.errors import OptionError, UnreadableImageError, opt
from onepass.features.preprocess import Preprocess
from onepass.features.tasks import CLASSES


@dataclass(frozen=True)
class Sight:
    """How images become pixels: what of a spec and of its views decides that.

    Attributes:
        backbone: Whose pixels they are.
        image_size: Side s, pixels.
        resize: The rule.
        depth: Bits in use of 16-bit values.
        views: How many, the plain image first.
        augmentation: What the others are drawn from.
    """

    backbone: str
    image_size: int
    resize: str
    depth: int
    views: int = 1
    augmentation: Augmentation | None = None

    @classmethod
    def of_file(cls, file: FeatureFile, views: int) -> "Sight":
        """That of a feature file, of whose views the first ones are wanted.

        Raises:
            OptionError: It holds fewer.
        """
        if views > file.views:
            raise OptionError(f"{opt.views} is {views}; {file.path} holds {file.views} per image.", views=views)
        spec = file.spec
        recipe = Augmentation.parse(str(file.provenance.get("augment"))) if views > 1 else None
        return cls(spec.backbone, spec.image_size, spec.resize, depth_of(spec.decode), views, recipe)

    @classmethod
    def of_backbone(
        cls,
        name: str,
        *,
        image_size: int | None,
        resize: str | None,
        preprocess: str | Path | Preprocess | None,
        depth: int | str,
        views: int,
        augment: str,
    ) -> "Sight":
        """That of a backbone, whose weights are not looked for; errors as `load_backbone`."""
        wanted = conversion_of(
            name, weights="imagenet", image_size=image_size, resize=resize, pooling=None, preprocess=preprocess
        )
        made, label = wanted.preprocess, wanted.facts.label
        require_views(made.resize, range(views))
        recipe = Augmentation.parse(augment) if views > 1 else None
        return cls(label, made.size, made.resize, checked_depth(depth, made.resize), views, recipe)

    def pixels(self, data: bytes) -> np.ndarray:
        """(v, s, s, 3) of the bytes of an image: what goes into the graph.

        Raises:
            UnreadableImageError: With the reason.
        """
        found = decode(
            data,
            image_size=self.image_size,
            resize=self.resize,
            views=range(self.views),
            augmentation=self.augmentation,
            depth=self.depth,
        )
        return np.stack(found.views)

    def __str__(self) -> str:
        views = f", {self.views} views of {self.augmentation}" if self.views > 1 else ""
        return f"{self.backbone}, {self.resize} to {self.image_size} px{views}"


@dataclass(frozen=True, eq=False)
class SeenImage:
    """An image as a network sees it.

    Attributes:
        path: In its source.
        label: Position of its class and the name of it, its labels, its number, or nothing.
        split: train, val or test; empty where none is said.
        pixels: (v, s, s, 3), uint8, or float32 in 0..255 for keras: what goes into the graph, view by view.
    """

    path: str
    label: str
    split: str
    pixels: np.ndarray = field(repr=False)


@dataclass(frozen=True, eq=False)
class Album:
    """Images to choose from.

    Attributes:
        name: How messages call it.
        table: Of them.
        store: Where they lie.
        splits: Name of the split of each, or nothing.
        usable: (n,) bool, those that are images by their name.
    """

    name: str
    table: ImageTable
    store: Store
    splits: Sequence[str]
    usable: np.ndarray

    @classmethod
    def of_source(cls, source: Source) -> "Album":
        """That of images no row of which is known."""
        splits = _splits(source.table) if source.said else [""] * len(source.table)
        return cls(source.name, source.table, source.store, splits, source.are_images)

    @classmethod
    def of_file(cls, file: FeatureFile, store: Store) -> "Album":
        """That of a feature file."""
        return cls(str(file.path), file.table, store, _splits(file.table), np.ones(len(file), bool))

    def look(self, sight: Sight, count: int, seed: int) -> tuple[list[SeenImage], list[SkippedImage]]:
        """So many images, of every class as many as of each other, sorted by class; and those that cannot be read."""
        skipped: list[SkippedImage] = []
        found = dict(islice(self._read(sight, seed, skipped), count))
        strata = self.table.strata()
        return [found[i] for i in sorted(found, key=lambda i: (int(strata[i]), self.table.paths[i]))], skipped

    def _read(self, sight: Sight, seed: int, skipped: list[SkippedImage]) -> Iterator[tuple[int, SeenImage]]:
        labels = self._labels()
        for position in self._order(seed):
            path = self.table.paths[position]
            try:
                pixels = sight.pixels(read_bytes(self.store.file(path)))
            except UnreadableImageError as error:
                skipped.append(SkippedImage(path, str(error)))
                continue
            yield position, SeenImage(path, labels[position], self.splits[position], pixels)

    def _order(self, seed: int) -> list[int]:
        """Positions in the order in which they are taken: one of each class in turn, by a seeded hash of the path."""
        strata = self.table.strata()
        drawn = {int(i): _hash(seed, self.table.paths[i]) for i in np.flatnonzero(self.usable)}
        order: list[tuple[int, int, int]] = []
        for stratum in np.unique(strata[self.usable]):
            own = np.flatnonzero(self.usable & (strata == stratum)).tolist()
            ranked = sorted(own, key=lambda i: (drawn[i], self.table.paths[i]))
            order += [(rank, drawn[i], i) for rank, i in enumerate(ranked)]
        return [i for *_, i in sorted(order)]

    def _labels(self) -> list[str]:
        texts = self.table.label_texts()
        if self.table.task != CLASSES:
            return texts
        return [f"{label} {text}" if text else "" for label, text in zip(self.table.labels, texts, strict=True)]


def _splits(table: ImageTable) -> list[str]:
    return [SPLITS[i] for i in table.splits.tolist()]


def _hash(seed: int, path: str) -> int:
    data = f"{seed} ".encode() + path.encode(errors="surrogateescape")
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")
