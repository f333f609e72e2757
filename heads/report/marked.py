"""What the answers to the worst mistakes came from, marked in their images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onepass.extract import store_of
from onepass.features import FeatureFile
from onepass.features.errors import UserError
from onepass.heads.report.mistakes import Explained, Heat
from onepass.heads.report.page.thumbnails import as_typed
from onepass.heads.saved_head import SavedHead
from onepass.heads.why.explain import explain

_LONGEST = 400
"""Pixels along the longer side of a picture with heat."""

_WORDS = (
    "Beside each stands the image in grey: red speaks for what the head answered, blue against it. Red less blue is "
    "exactly what sets the score of that answer apart from its score for the mean training image."
)


def exactly_explained(head: SavedHead, file: FeatureFile, data: Sequence[Path]) -> Explained:
    """Marks of a head for which they can be told exactly; for others, what to say instead.

    Args:
        head: The head.
        file: Its feature file.
        data: Where the images lie now; by default where they were.
    """

    def explained(names: Sequence[str]) -> tuple[Heat, Sequence[str]]:
        try:
            store = store_of(file, list(data))
            files = {str(place): name for name in names if isinstance(place := store.file(name), Path)}
            found = explain(head, list(files), method="exact") if files else ()
            marked = {files[one.path]: np.asarray(one.overlay(longest=_LONGEST)) for one in found}
        except UserError as error:
            return {}, [f"What the answers came from is not marked: {error.spelled(as_typed)}"]
        held = "" if files else "What the answers came from is not marked: these images have no files of their own."
        return marked, [words for words in (_WORDS if marked else "", held) if words]

    return explained
