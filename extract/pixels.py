"""The images behind a feature file, decoded again from their files, for training on pixels."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from extract.folders import image_folders
from extract.images import decode_views, pixel_dtype, read_bytes, require_views
from extract.views import Augmentation
from features import FeatureFile
from features.errors import DataError, OptionError, UnreadableImageError


class LabelledPixels:
    """Pixels of a feature file's images, as its backbone saw them.

    Args:
        file: The feature file; its table must outlive this.
        data: Where the image folders lie now; by default where they were.
        augmentation: What views beyond the plain one are drawn from: a text for `Augmentation.parse`.
        workers: Decoding threads; by default one per processor.

    Raises:
        DataError: The image folder is gone.
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
        self.root = image_folders(list(data))[1] if data else Path(str(file.provenance.get("data")))
        if not self.root.is_dir():
            raise DataError(f"the images of {file.path} are not in {self.root} any more. Say where with --data.")
        threads = os.cpu_count() or 1 if workers is None else workers
        if threads < 1:
            raise OptionError(f"--workers is {workers}; needed: at least 1.")
        self.augmentation = Augmentation.parse(augmentation) if augmentation else None
        self._spec, self._table = file.spec, file.table
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(s, s, 3) of one image."""
        return self._spec.image_size, self._spec.image_size, 3

    def read(self, images: np.ndarray, views: np.ndarray | None = None) -> np.ndarray:
        """Pixels of the images at (b,) positions in the file, of (b,) views: (b, s, s, 3), plain ones by default.

        Raises:
            DataError: A file is gone, cannot be read or is not what it was.
        """
        views = np.zeros(len(images), np.int64) if views is None else views
        require_views(self._spec.resize, np.unique(views).tolist() or [0])
        pixels = np.empty((len(images), *self.shape), pixel_dtype(self._spec.resize))
        found = self._pool.map(self._one, images.tolist(), views.tolist())
        for i, one in enumerate(found):
            pixels[i] = one
        return pixels

    def _one(self, image: int, view: int) -> np.ndarray:
        path = self.root / self._table.paths[image]
        try:
            data = read_bytes(path)
            if hashlib.sha256(data).digest() != self._table.content_hashes[image].tobytes():
                raise UnreadableImageError("it is not the file that its row was computed from")
            return decode_views(
                data,
                image_size=self._spec.image_size,
                resize=self._spec.resize,
                views=(view,),
                augmentation=self.augmentation,
            )[0]
        except UnreadableImageError as error:
            raise DataError(
                f"{path}: {error}. Run the same extract command again, or name its folder by --data."
            ) from None
