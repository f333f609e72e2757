"""Writes rows, labels and predictions as another tool takes them."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from onepass.features import FeatureFile
from onepass.features.atomic import folder_beside, move
from onepass.features.errors import OptionError, OutputError, TrainingError, cannot_write, opt
from onepass.features.names import shown
from onepass.features.places import require_place
from onepass.features.tables import Record, command_line
from onepass.heads.file_kinds import FileKind, classifier_file, file_kind
from onepass.heads.predict.nearest import training_file
from onepass.heads.saved_head import SavedHead, load_head
from onepass.heads.share.fiftyone import write_fiftyone
from onepass.heads.share.label_studio import write_label_studio
from onepass.heads.share.projector import write_projector
from onepass.heads.share.shared_images import SharedImages, task_shared

_TOOLS: dict[str, Callable[[SharedImages, Path], list[str]]] = {
    "projector": write_projector,
    "fiftyone": write_fiftyone,
    "label-studio": write_label_studio,
}

TOOLS = tuple(_TOOLS)
"""What `share` writes for."""


@dataclass(frozen=True)
class Shared:
    """What `share` wrote.

    Attributes:
        out: The folder.
        to: The tool.
        images: How many.
        files: Names of the files in it.
        notes: What else the user should know.
    """

    out: str
    to: str
    images: int
    files: list[str]
    notes: list[str]

    def __str__(self) -> str:
        return "\n".join(
            [f"{shown(self.out)}: {self.images} images for {self.to}: {', '.join(self.files)}", *self.notes]
        )

    @property
    def next_command(self) -> str:
        """What to do next, as it is typed."""
        return command_line("tensorboard", "--logdir", Path(self.out)) if self.to == "projector" else ""

    def record(self) -> Record:
        """The same as plain values, for JSON."""
        return asdict(self)


def share(
    source: str | Path | FeatureFile | SavedHead,
    *,
    to: str,
    out: str | Path,
    features: str | Path | None = None,
    data: str | Path | None = None,
) -> Shared:
    """Writes the images of a feature file as another tool takes them: to look at, or to correct labels there.

    Args:
        source: Feature file; or head, which predicts for those of its training's feature file.
        to: projector: rows, metadata and pictures for TensorBoard's. fiftyone: samples with labels, predictions,
            confidence and rows. label-studio: tasks with predictions; `label` reads what comes back.
        out: Folder to be made.
        features: Feature file of a head, if it is not where it was, or another of the same rows.
        data: Where the images lie now, if they were moved.

    Raises:
        OptionError: There is no such tool, the folder exists, or an option does not belong to the source.
        DataError: The images have no files that the tool could open.
        HeadFileError, FeatureFileError, SpecMismatchError: The source cannot be used.
        OutputError: The folder cannot be written.

    >>> shared = share("photos.h5", to="projector", out="looked-at")
    >>> shared.images, shared.files
    (120, ['metadata.tsv', 'projector_config.pbtxt', 'tensors.tsv'])
    """
    if to not in _TOOLS:
        raise OptionError(f"{opt.to} is {to!r}; needed: one of {', '.join(TOOLS)}.", to=to)
    require_place(out, fresh=True)
    head = _head(source)
    if head is None and features is not None:
        raise OptionError(f"{opt.features} goes with a head, and {source} is a feature file. Leave it out.")
    if isinstance(source, FeatureFile):
        return _share(source, None, to, Path(out), data)
    where = source if head is None else features or training_file(head)
    assert not isinstance(where, SavedHead)
    with FeatureFile(where) as file:
        return _share(file, head, to, Path(out), data)


def _head(source: str | Path | FeatureFile | SavedHead) -> SavedHead | None:
    """The head, if it is one.

    Raises:
        HeadFileError: It is a whole model, which takes no rows, or no file of ours.
    """
    if isinstance(source, FeatureFile | SavedHead):
        return source if isinstance(source, SavedHead) else None
    if file_kind(source) is FileKind.FEATURES or (Path(source).suffix == ".h5" and not Path(source).exists()):
        return None
    path, kind = classifier_file(source)
    if kind is not FileKind.HEAD:
        raise OptionError(f"{path} is {kind}, which takes no rows; needed: a feature file, or a head file.")
    return load_head(path)


def _share(file: FeatureFile, head: SavedHead | None, to: str, out: Path, data: str | Path | None) -> Shared:
    if head:
        head.require_rows_of(file)
    file.require_complete()
    there = np.flatnonzero(file.committed)
    if not len(there):
        raise TrainingError(f"{file.path} holds no row to share. Extract images first.", path=file.path)
    images = SharedImages(file, there, head, task_shared(file, head), Path(data) if data else None)
    try:
        with folder_beside(out.absolute()) as beside:
            made = beside / out.name
            made.mkdir()
            notes = _TOOLS[to](images, made)
            files = sorted(path.name for path in made.iterdir())
            move(made, out.absolute())
    except OSError as error:
        raise OutputError(cannot_write(out, error, opt.out), path=out) from None
    return Shared(str(out), to, len(images), files, notes)
