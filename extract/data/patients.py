"""Which patient each DICOM image is of, so that the images of one stay on one side of a split."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from onepass.extract.data.stores import Store
from onepass.extract.pixels.dicom import patient_of
from onepass.extract.pixels.formats import DICOM_ENDINGS
from onepass.extract.pixels.image_bytes import read_bytes
from onepass.features import ImageTable


def patient_groups(
    store: Store, paths: Sequence[str], are_images: np.ndarray, contents: np.ndarray, known: ImageTable | None
) -> tuple[str, ...] | None:
    """A group for each patient, called by a hash: the feature file holds no names.

    Args:
        store: Where the images lie.
        paths: n names of them.
        are_images: (n,) bool.
        contents: (n, 32) uint8, content hashes; zeros for what could not be read.
        known: Table of an earlier scan, whose images are not read again.

    Returns:
        None if not all images are DICOM by their names. Images without a patient are groups of their own.
    """
    images = [path for path, image in zip(paths, are_images.tolist(), strict=True) if image]
    if not images or not all(path.lower().endswith(DICOM_ENDINGS) for path in images):
        return None
    earlier = {}
    if known:
        hashes = (content.tobytes() for content in known.content_hashes)
        earlier = {content: group for content, group in zip(hashes, known.groups, strict=True) if group}

    def group(position: int) -> str:
        content = contents[position]
        if not are_images[position] or not content.any():
            return ""
        if found := earlier.get(content.tobytes()):
            return found
        try:
            patient = patient_of(read_bytes(store.file(paths[position])))
        except Exception:  # which pydicom's reader raises in many kinds; the pass will say what is wrong with the file
            return ""
        return f"patient {hashlib.sha256(patient.encode()).hexdigest()[:12]}" if patient else ""

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return tuple(pool.map(group, range(len(paths))))
