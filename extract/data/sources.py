"""What a user names as data, opened as a source of images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onepass.extract.data.archive_source import archive_source, archive_store, are_archives
from onepass.extract.data.boxes import BoxStore
from onepass.extract.data.columns import SourceOptions
from onepass.extract.data.data_sets import DataSet, data_set_of
from onepass.extract.data.folders import Folders, folder_source, image_folders, unlabelled_folders
from onepass.extract.data.parquet_store import ParquetStore
from onepass.extract.data.records import is_table, read_records
from onepass.extract.data.remote import address_of, remote_source, remote_store
from onepass.extract.data.source import Source
from onepass.extract.data.stores import FolderStore, Store
from onepass.extract.data.table_source import source_of_records, table_source
from onepass.features import FeatureFile
from onepass.features.errors import DataError, OptionError, opt

Data = Folders | Source
"""An image folder, or several that are put together; archives of them; a table; or a source that is open already."""


def open_source(data: Data, options: SourceOptions | None = None, *, least_classes: int = 2) -> Source:
    """The images that a user names; none of them is read.

    Args:
        data: What the user named.
        options: What of it means what.
        least_classes: How many classes there must be.

    Raises:
        DataError: It is not there, or cannot be meant.
        OptionError: The options do not belong to it.
    """
    if isinstance(data, Source):
        return data
    options, named = options or SourceOptions(), _named(data)
    if len(named) == 1 and (data_set := data_set_of(named[0])):
        return _from_data_set(data_set, options, least_classes)
    if len(named) == 1 and is_table(named[0]) and not named[0].is_dir():
        return table_source(named[0], options, lambda images: open_store([images]), least_classes=least_classes)
    given = options.given()
    if are_archives(named) and not given:
        return archive_source(named, least_classes=least_classes)
    if (addresses := _addresses(named)) and not given:
        return remote_source(addresses, least_classes=least_classes)
    if given.pop("unlabelled", False) and not given and not (addresses or are_archives(named)):
        return unlabelled_folders(data)
    if given:
        name = next(iter(given))
        raise OptionError(
            f"{getattr(opt, name)} belongs to a table, and {' '.join(map(str, named))} is none. Name the table, and "
            f"the images by {opt.images}."
        )
    return folder_source(data, least_classes=least_classes)


def _from_data_set(data_set: DataSet, options: SourceOptions, least_classes: int) -> Source:
    if options.images:
        raise OptionError(f"{data_set} holds its images itself; leave {opt.images} out.")
    opened, records, store = data_set.opened(options.path)
    record = {"data": str(opened), "folders": [str(opened)], "source": options.given()}
    return source_of_records(
        records, options, store, held=True, stem=data_set.stem, record=record, least_classes=least_classes
    )


def open_store(named: list[Path]) -> Store:
    """Where images lie, without a look at their labels.

    Args:
        named: What the user named, or what a feature file remembers.

    Raises:
        DataError: It is not there.
    """
    if len(named) == 1 and (data_set := data_set_of(named[0])):
        return data_set.opened()[2]
    if are_archives(named):
        return archive_store(named)
    addresses = _addresses(named)
    return remote_store(addresses[0]) if addresses else FolderStore(image_folders(named)[1])


def is_source(data: str | Path) -> bool:
    """True if what is no folder holds images that can be opened as a source."""
    return (
        address_of(data) is not None
        or data_set_of(data) is not None
        or (Path(data).exists() and are_archives([Path(data)]))
    )


def source_of(file: FeatureFile, data: Folders | None = None) -> Source:
    """The source that the images of a feature file came from, opened again.

    Args:
        file: The feature file.
        data: Where the images lie now; by default where they were.

    Raises:
        DataError: It is gone.
    """
    known = _options(file.provenance)
    named = _named(data)
    recorded = _recorded(file)
    if known and named and is_table(recorded[0]) and not is_table(named[0]):  # the images moved, the table did not
        known = SourceOptions.of({**known.given(), "images": str(named[0])})
        named = []
    return open_source(named or recorded, known)


def store_of(file: FeatureFile, data: Folders | None = None) -> Store:
    """Where the images of a feature file lie, without a look at their labels.

    Args:
        file: The feature file.
        data: Where they lie now; by default where they were.

    Raises:
        DataError: It is gone.
    """
    store = _store_of(file, _named(data))
    return BoxStore(store) if file.provenance.get("boxes") else store


def _store_of(file: FeatureFile, named: list[Path]) -> Store:
    if data_set := data_set_of(named[0] if len(named) == 1 else file.provenance.get("data")):
        options = _options(file.provenance)
        return data_set.opened(options.path if options else None)[2]
    if not named and are_archives(_recorded(file)):
        return archive_store(_recorded(file))
    if not named and (addresses := _addresses(_recorded(file))):
        return remote_store(addresses[0])
    place = Path(str(file.provenance.get("data")))
    if not named and not place.exists() and address_of(place) is None:
        raise DataError(f"the images of {file.path} are not in {place} any more. Say where with {opt.data}.")
    one = named[0] if len(named) == 1 else place
    if one.suffix.lower() == ".parquet" and not one.is_dir():
        options = _options(file.provenance)
        return ParquetStore.of(one, read_records(one).images, options.path if options else None)
    return open_store(named or [place])


def _addresses(named: list[Path]) -> list[str]:
    """What a user named, if these are addresses."""
    return [address for path in named if (address := address_of(path))]


def _recorded(file: FeatureFile) -> list[Path]:
    """What the user named as the data of a feature file."""
    folders = file.provenance.get("folders")
    return [Path(str(folder)) for folder in folders] if isinstance(folders, list) else []


def _options(provenance: Mapping[str, Any]) -> SourceOptions | None:
    known = provenance.get("source")
    return SourceOptions.of(known) if isinstance(known, dict) else None


def _named(data: Folders | None) -> list[Path]:
    if data is None:
        return []
    return [Path(data)] if isinstance(data, str | Path) else [Path(one) for one in data]
