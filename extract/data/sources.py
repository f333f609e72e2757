"""What a user names as data, opened as a source of images."""

from pathlib import Path

from onepass.extract.data.archive_source import archive_source, archive_store, are_archives
from onepass.extract.data.folders import Folders, folder_source, image_folders
from onepass.extract.data.remote import address_of, remote_source, remote_store
from onepass.extract.data.source import Source
from onepass.extract.data.stores import FolderStore, Store
from onepass.features import FeatureFile
from onepass.features.errors import DataError, opt

Data = Folders | Source
"""An image folder, or several that are put together; archives of them; or a source that is open already."""


def open_source(data: Data, *, least_classes: int = 2) -> Source:
    """The images that a user names; none of them is read.

    Args:
        data: What the user named.
        least_classes: How many classes there must be.

    Raises:
        DataError: It is not there, or cannot be meant.
    """
    if isinstance(data, Source):
        return data
    named = _named(data)
    if are_archives(named):
        return archive_source(named, least_classes=least_classes)
    if addresses := _addresses(named):
        return remote_source(addresses, least_classes=least_classes)
    return folder_source(data, least_classes=least_classes)


def is_source(data: str | Path) -> bool:
    """True if what is no folder holds images that can be opened as a source."""
    return address_of(data) is not None or (Path(data).exists() and are_archives([Path(data)]))


def source_of(file: FeatureFile, data: Folders | None = None) -> Source:
    """The source that the images of a feature file came from, opened again.

    Args:
        file: The feature file.
        data: Where the images lie now; by default where they were.

    Raises:
        DataError: It is gone.
    """
    return open_source(_named(data) or _recorded(file))


def store_of(file: FeatureFile, data: Folders | None = None) -> Store:
    """Where the images of a feature file lie, without a look at their labels.

    Args:
        file: The feature file.
        data: Where they lie now; by default where they were.

    Raises:
        DataError: It is gone.
    """
    named = _named(data)
    if are_archives(named or _recorded(file)):
        return archive_store(named or _recorded(file))
    if addresses := _addresses(named or _recorded(file)):
        return remote_store(addresses[0])
    if named:
        return FolderStore(image_folders(named)[1])
    root = Path(str(file.provenance.get("data")))
    if not root.is_dir():
        raise DataError(f"the images of {file.path} are not in {root} any more. Say where with {opt.data}.")
    return FolderStore(root)


def _addresses(named: list[Path]) -> list[str]:
    """What a user named, if these are addresses."""
    return [address for path in named if (address := address_of(path))]


def _recorded(file: FeatureFile) -> list[Path]:
    """What the user named as the data of a feature file."""
    folders = file.provenance.get("folders")
    return [Path(str(folder)) for folder in folders] if isinstance(folders, list) else []


def _named(data: Folders | None) -> list[Path]:
    if data is None:
        return []
    return [Path(data)] if isinstance(data, str | Path) else [Path(one) for one in data]
