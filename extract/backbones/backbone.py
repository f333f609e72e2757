"""A backbone ready to use: its spec, and its engine once a row is asked for."""

import hashlib
import io
import os
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from onepass.extract.backbones.engines import (
    Engine,
)
from onepass.extract.backbones.golden import environment, golden_images
from onepass.extract.backbones.openvino_cache import CompiledBackbone, Quantisation
from onepass.extract.backbones.options import BackboneOrigin
from onepass.extract.pixels.decode import (
    Decoded,
    decode,
    decode_image,
    depth_of,
    pixel_dtype,
    require_views,
)
from onepass.extract.pixels.image_bytes import ImageFile, read_bytes
from onepass.extract.pixels.views import Augmentation
from onepass.features.errors import OptionError, UnreadableImageError, opt
from onepass.features.spec import Spec

Key = TypeVar("Key", bound=Hashable)


BATCH_SIZE = 32
"""Rows committed together; also images per step of the TensorFlow engine."""


class Backbone:
    """A frozen network with its preprocessing: images in, rows out.

    Args:
        spec: What its rows are computed with.
        source: Where it comes from.
        make_engine: Called once, when the first row is asked for.
        engine_name: openvino or tensorflow.
        converted: The graph that OpenVINO runs, on disk.
        widths: Of the rows of each pooling, if there are several, one after the other.
    """

    def __init__(
        self,
        spec: Spec,
        source: BackboneOrigin,
        make_engine: Callable[[], Engine],
        *,
        engine_name: str,
        converted: CompiledBackbone | None = None,
        widths: tuple[int, ...] = (),
    ) -> None:
        self.spec = spec
        self.source = source
        self.engine_name = engine_name
        self.converted = converted
        self._make_engine = make_engine
        self._widths = widths
        self._golden: np.ndarray | None = None

    @cached_property
    def engine(self) -> Engine:
        return self._make_engine()

    def apart(self) -> list[tuple["Backbone", slice]]:
        """A backbone for each of several poolings, which share the engine, and where its rows lie in the whole."""
        found, start = [], 0
        for pooling, width in zip(self.spec.pooling.split(","), self._widths, strict=True):
            columns = slice(start, start + width)
            spec = replace(self.spec, pooling=pooling, width=width)

            def make(columns: slice = columns) -> Engine:
                return _Columns(self.engine, columns)

            found.append((Backbone(spec, self.source, make, engine_name=self.engine_name), columns))
            start += width
        return found

    def through(self, make_engine: Callable[[], Engine]) -> "Backbone":
        """The same images through another engine, whose rows are something else than those of the spec."""
        return Backbone(self.spec, self.source, make_engine, engine_name=self.engine_name)

    @property
    def quantisation(self) -> Quantisation | None:
        """How the graph was quantised; None unless it is int8 and calibrated."""
        return self.converted.quantisation if self.converted else None

    def pixels(self, data: bytes) -> np.ndarray:
        """The bytes of an image file as this backbone sees them; see `read_image`.

        Raises:
            UnreadableImageError: With the reason.
        """
        spec = self.spec
        return decode_image(data, image_size=spec.image_size, resize=spec.resize, depth=depth_of(spec.decode))

    def decoded(self, data: bytes, views: Sequence[int], augmentation: Augmentation | None) -> Decoded:
        """The bytes of an image file as what the engine takes, for each of some views; see `decode`.

        Raises:
            UnreadableImageError: With the reason.
        """
        spec = self.spec
        return decode(
            data,
            image_size=spec.image_size,
            resize=spec.resize,
            views=views,
            augmentation=augmentation,
            depth=depth_of(spec.decode),
        )

    def spare(self, threads: int) -> int:
        """Decoded images that may wait for the engine, beside one per thread."""
        return 3 * threads + 8

    def rows(self, images: np.ndarray) -> np.ndarray:
        """Rows of images already decoded and resized.

        Args:
            images: (b, s, s, 3) RGB, s as in the spec; uint8, or float32 in 0..255 where resize is keras.

        Returns:
            (b, d) float32.
        """
        size, dtype = self.spec.image_size, pixel_dtype(self.spec.resize)
        if images.dtype != dtype or images.shape[1:] != (size, size, 3):
            raise OptionError(
                f"got images of shape {images.shape}, {images.dtype}; needed: (b, {size}, {size}, 3), {dtype}."
            )
        rows = np.empty((len(images), self.spec.width), np.float32)
        for position, row in self.engine.run(enumerate(images)):
            rows[position] = row
        return rows

    def rows_of(self, images: Sequence[str | Path | np.ndarray], *, workers: int | None = None) -> np.ndarray:
        """Rows of image files, or of images that were decoded elsewhere, in their order.

        Args:
            images: Paths, or (h, w, 3) uint8 RGB arrays of any size, which are resized as files are.
            workers: Decoding threads.

        Returns:
            (n, d) float32.

        Raises:
            UnreadableImageError: An image cannot be read; with its path, or its place if it is an array.
        """

        rows = np.empty((len(images), self.spec.width), np.float32)
        for position, row in self.stream_of(images, workers=workers):
            rows[position] = row
        return rows

    def stream_of(
        self, images: Sequence[str | Path | np.ndarray], *, workers: int | None = None
    ) -> Iterator[tuple[int, np.ndarray]]:
        """`rows_of` one by one: the place of an image with its row, not necessarily in order; errors as there."""

        def refuse(position: int, reason: str) -> None:
            image = images[position]
            name = f"image {position}" if isinstance(image, np.ndarray) else image
            raise UnreadableImageError(f"{name} cannot be read: {reason}")

        files = (_as_png(image, i) if isinstance(image, np.ndarray) else Path(image) for i, image in enumerate(images))
        for position, row in self.stream(enumerate(files), on_skip=refuse, workers=workers):
            yield position, row[0]

    def golden_rows(self) -> np.ndarray:
        """Rows of the built-in test images through the whole way, decoding included, (g, d) float32."""
        if self._golden is None:
            self._golden = self.rows(np.stack([self.pixels(data) for data in golden_images()]))
        return self._golden

    @property
    def environment(self) -> dict[str, Any]:
        """Engine, processor and versions: what rows can depend on beside the spec."""
        return environment(self.engine_name)

    def stream(
        self,
        files: Iterable[tuple[Key, ImageFile | bytes]],
        *,
        on_skip: Callable[[Key, str], None],
        workers: int | None = None,
        verify: bool = False,
        views: Sequence[int] = (0,),
        augmentation: Augmentation | str | None = None,
        on_thumbnail: Callable[[Key, np.ndarray], None] | None = None,
        on_deep: Callable[[Key, int], None] | None = None,
    ) -> Generator[tuple[Key, np.ndarray], None, None]:
        """Rows of image files; decoding runs in threads beside the engine, memory stays bounded.

        Args:
            files: Keys with what images are read from, or with their bytes.
            on_skip: Called with key and reason for every file that cannot be read.
            workers: Decoding threads; by default one per processor.
            verify: Keys are SHA-256 digests, and a file whose bytes have another is skipped.
            views: Numbers of the views to compute; 0 is the plain image.
            augmentation: What the other views are drawn from, or a text for `Augmentation.parse`.
            on_thumbnail: Called with key and (24, 24) uint8 thumbnail of every file that can be read.
            on_deep: Called with key and largest value of every image with 16 bits per value.

        Yields:
            (key, (len(views), d) float32), not necessarily in order.
        """

        require_views(self.spec.resize, views)
        threads = os.cpu_count() or 1 if workers is None else workers
        if threads < 1:
            raise OptionError(f"{opt.workers} is {workers}; needed: at least 1.")
        recipe = Augmentation.parse(augmentation) if isinstance(augmentation, str) else augmentation

        def decoded(key: Key, file: ImageFile | bytes) -> Decoded:
            data = file if isinstance(file, bytes) else read_bytes(file)
            if verify and hashlib.sha256(data).digest() != key:
                raise UnreadableImageError(
                    f"no longer the file whose content was recorded; extract again with {opt.rehash}"
                )
            return self.decoded(data, views, recipe)

        def readable() -> Iterator[tuple[tuple[Key, int], np.ndarray]]:
            for key, future in _ahead(files, decoded, threads, ahead=threads + self.spare(threads) // len(views)):
                try:
                    pixels, thumbnail, highest = future.result()
                except UnreadableImageError as error:
                    on_skip(key, str(error))
                    continue
                if on_thumbnail:
                    on_thumbnail(key, thumbnail)
                if on_deep and highest is not None:
                    on_deep(key, highest)
                yield from (((key, number), view) for number, view in enumerate(pixels))

        # Views of one image follow each other; an engine may still answer in another order.
        unfinished: dict[Key, dict[int, np.ndarray]] = defaultdict(dict)
        for (key, number), row in self.engine.run(readable()):
            unfinished[key][number] = row
            if len(unfinished[key]) == len(views):
                rows = unfinished.pop(key)
                yield key, np.stack([rows[i] for i in range(len(views))])


class _Columns:
    """An engine of which a part of each row is wanted."""

    def __init__(self, whole: Engine, columns: slice) -> None:
        self.name, self._whole, self._columns = whole.name, whole, columns

    def run(self, images: Iterable[tuple[Key, np.ndarray]]) -> Iterator[tuple[Key, np.ndarray]]:
        for key, row in self._whole.run(images):
            yield key, row[self._columns]


def _as_png(image: np.ndarray, position: int) -> bytes:
    """An image as the file that it could have come from, so that it goes the way of all files."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise OptionError(f"image {position} is {image.shape}, {image.dtype}; needed: (h, w, 3) uint8 RGB, or a path.")
    data = io.BytesIO()
    Image.fromarray(image).save(data, "PNG", compress_level=1)
    return data.getvalue()


def _ahead(
    files: Iterable[tuple[Key, ImageFile | bytes]],
    decoded: Callable[[Key, ImageFile | bytes], Decoded],
    workers: int,
    *,
    ahead: int,
) -> Iterator[tuple[Key, Future[Decoded]]]:
    """Keeps at most `ahead` decodings under way or waiting, in order."""
    waiting: deque[tuple[Key, Future[Decoded]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        for key, path in files:
            waiting.append((key, pool.submit(decoded, key, path)))
            if len(waiting) > ahead:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        # Without waiting: if a garbage collection ends this generator, it may do so in a thread that is
        # just starting and holds the lock which joining another thread needs.
        pool.shutdown(wait=False, cancel_futures=True)
