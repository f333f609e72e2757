"""Images that are known by their content, decoded again from their files: to train on pixels, to prove a model."""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self, TypeVar

import numpy as np

from onepass.extract.data.named import named_images
from onepass.extract.data.records import is_table_file
from onepass.extract.data.sources import is_source, store_of
from onepass.extract.pixels.decode import decode, decode_whole, depth_of, pixel_dtype, require_views
from onepass.extract.pixels.deep import FULL_DEPTH
from onepass.extract.pixels.image_bytes import ImageFile, read_bytes
from onepass.extract.pixels.views import Augmentation
from onepass.features import FeatureFile, SkippedImage
from onepass.features.errors import DataError, OptionError, UnreadableImageError, opt

T = TypeVar("T")


class ImageFiles:
    """Image files, each of which must still hold what its content hash says.

    Args:
        file_of: Position of an image -> what it is read from.
        content_hashes: (n, 32) uint8, SHA-256 of each file.
        image_size: Side s of the pixels, and
        resize: how they are made; see `read_image`.
        depth: Bits in use of 16-bit values.
        augmentation: What views beyond the plain one are drawn from: a text for `Augmentation.parse`.
        workers: Decoding threads; by default one per processor.

    Raises:
        OptionError: No thread, or an unknown recipe.
    """

    def __init__(
        self,
        file_of: Callable[[int], ImageFile],
        content_hashes: np.ndarray,
        *,
        image_size: int,
        resize: str,
        depth: int = FULL_DEPTH,
        augmentation: str | None = None,
        workers: int | None = None,
    ) -> None:
        threads = os.cpu_count() or 1 if workers is None else workers
        if threads < 1:
            raise OptionError(f"{opt.workers} is {workers}; needed: at least 1.")
        self.augmentation = Augmentation.parse(augmentation) if augmentation else None
        self._file_of, self._hashes = file_of, content_hashes
        self._size, self._resize, self._depth = image_size, resize, depth
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    @classmethod
    def found_in(
        cls, data: Sequence[Path], content_hashes: np.ndarray, *, image_size: int, resize: str, depth: int
    ) -> tuple[Self, np.ndarray]:
        """Images looked for by their content alone, wherever they lie in folders, archives, tables or buckets.

        Returns:
            The files, and the (m,) positions in `content_hashes` of those that were found.

        Raises:
            DataError: One of these is not there or may not be listed.
        """
        for folder in data:
            if not (folder.is_dir() or is_source(folder)):
                raise DataError(f"there is no folder {folder}. Name the folder of the images by {opt.data}.")
            if is_table_file(folder) and folder.suffix.lower() != ".parquet":
                raise DataError(f"{folder} names images and holds none. Name the folder of the images by {opt.data}.")
        wanted = {content.tobytes(): i for i, content in enumerate(content_hashes)}
        found: dict[int, ImageFile] = {}
        for file in named_images(data):
            if len(found) == len(wanted):
                break
            if isinstance(file, SkippedImage):
                if file.path in map(str, data) and file.reason.endswith("."):  # not what lies in it, but it itself
                    raise DataError(file.reason)
                continue
            try:
                position = wanted.get(hashlib.sha256(read_bytes(file)).digest())
            except UnreadableImageError:
                continue
            if position is not None:
                found.setdefault(position, file)
        files = cls(found.__getitem__, content_hashes, image_size=image_size, resize=resize, depth=depth)
        return files, np.array(sorted(found), np.int64)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(s, s, 3) of one image's pixels."""
        return self._size, self._size, 3

    def read(self, images: np.ndarray, views: np.ndarray | None = None) -> np.ndarray:
        """Pixels of the images at (b,) positions, of (b,) views: (b, s, s, 3), plain ones by default.

        Raises:
            DataError: A file is gone, cannot be read or is not what it was.
        """
        views = np.zeros(len(images), np.int64) if views is None else views
        require_views(self._resize, np.unique(views).tolist() or [0])
        pixels = np.empty((len(images), *self.shape), pixel_dtype(self._resize))
        found = self._pool.map(self._pixels, images.tolist(), views.tolist())
        for i, one in enumerate(found):
            pixels[i] = one
        return pixels

    def data(self, image: int) -> bytes:
        """The bytes of the file at a position.

        Raises:
            DataError: As `read`.
        """
        return self._read(image, lambda data: data)

    def whole(self, image: int) -> np.ndarray:
        """The image at a position, decoded but not resized: (h, w, 3) uint8 RGB.

        Raises:
            DataError: As `read`.
        """
        return self._read(image, lambda data: decode_whole(data, resize=self._resize, depth=self._depth))

    def _pixels(self, image: int, view: int) -> np.ndarray:
        def one_view(data: bytes) -> np.ndarray:
            return decode(
                data,
                image_size=self._size,
                resize=self._resize,
                views=(view,),
                augmentation=self.augmentation,
                depth=self._depth,
            ).views[0]

        return self._read(image, one_view)

    def _read(self, image: int, use: Callable[[bytes], T]) -> T:
        file = self._file_of(image)
        try:
            data = read_bytes(file)
            if hashlib.sha256(data).digest() != self._hashes[image].tobytes():
                raise UnreadableImageError("it is not the file that its row was computed from")
            return use(data)
        except UnreadableImageError as error:
            raise DataError(
                f"{file}: {error}. Run the same extract command again, or name its folder by {opt.data}."
            ) from None


class LabelledPixels(ImageFiles):
    """The images behind a feature file, as its backbone saw them.

    Args:
        file: The feature file; its table must outlive this.
        data: Where the image folders lie now; by default where they were.
        augmentation, workers: As for `ImageFiles`.

    Raises:
        DataError: The image folder is gone; when an image is read: its path leads out of that folder.
        OptionError: No thread, or an unknown recipe.
    """

    def __init__(
        self,
        file: FeatureFile,
        *,
        data: Sequence[Path] = (),
        augmentation: str | None = None,
        workers: int | None = None,
    ) -> None:
        store = store_of(file, data)
        table, spec = file.table, file.spec
        super().__init__(
            lambda image: store.file(table.paths[image]),
            table.content_hashes,
            image_size=spec.image_size,
            resize=spec.resize,
            depth=depth_of(spec.decode),
            augmentation=augmentation,
            workers=workers,
        )
