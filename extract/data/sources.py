"""What a user names as data, opened as a source of images."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onepass.extract.data.archive_source import archive_source, archive_store, are_archives
from onepass.extract.data.boxes import BoxStore
from onepass.extract.data.columns import SourceOptions
from onepass.extract.data.data_sets import DataSet, data_set_of
from onepass.extract.data.folders import Folders, folder_source, image_folders, unlabelled_folders
from onepass.extract.data.records import is_table, is_table_file
from onepass.extract.data.remote import address_of, remote_source, remote_stores
from onepass.extract.data.source import Source
from onepass.extract.data.stores import FolderStore, Store
from onepass.extract.data.table_source import open_table_store, source_of_records, table_source
from onepass.extract.data.tables import read_table
from onepass.extract.data.videos import VideoStore, require_no_time, video_source
from onepass.features import FeatureFile
from onepass.features.errors import DataError, OptionError, opt

Data = Folders | Source
"""An image folder, or several that are put together; archives of them; a table; or a source that is open already."""


_LABELLING = ("label", "label_separator", "target", "unlabelled")
"""Options that say what an image is labelled with; a user who gives one of them means none of the others."""


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
    given = options.given()
    every, unlabelled = given.pop("every", None), bool(given.pop("unlabelled", False))
    if every and all(map(os.path.isdir, named)) and not given:
        return video_source(data, every, unlabelled=unlabelled, least_classes=least_classes)
    require_no_time(every, named)
    if len(named) == 1 and (data_set := data_set_of(named[0])):
        return _from_data_set(data_set, options, least_classes)
    if len(named) == 1 and is_table_file(named[0]):
        return table_source(named[0], options, lambda images: open_store([images]), least_classes=least_classes)
    if given:
        name = next(iter(given))
        raise OptionError(
            f"{getattr(opt, name)} belongs to a table, and {' '.join(map(str, named))} is none. Name the table, and "
            f"the images by {opt.images}."
        )
    if are_archives(named):
        return archive_source(named, least_classes=least_classes, unlabelled=unlabelled)
    if addresses := _addresses(named):
        return remote_source(addresses, least_classes=least_classes, unlabelled=unlabelled)
    return unlabelled_folders(data) if unlabelled else folder_source(data, least_classes=least_classes)


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
    return remote_stores(addresses) if addresses else FolderStore(image_folders(named)[1])


def is_source(data: str | Path) -> bool:
    """True if what is no folder is by its name what holds or names images; opening it tells whether it is there."""
    path = Path(data)
    return address_of(data) is not None or data_set_of(data) is not None or is_table_file(path) or are_archives([path])


def open_like(data: Path, provenance: Mapping[str, Any], options: SourceOptions) -> Source:
    """Images to score a head on; one class is enough.

    What nobody says of the columns of a table is what was said of those of the same names for the training.

    Args:
        data: What the user named.
        provenance: Of the feature file that the head was trained on.
        options: What of a table means what.

    Raises:
        DataError: It is not there, or cannot be meant.
        OptionError: The options do not belong to it.
    """
    known = _options(provenance)
    if known and is_table_file(data):
        records = read_table(data)
        said, fitting = options.given(), known.fitting([*records.columns, *records.images]).given()
        if known.images and str(data.resolve()) in (provenance.get("folders") or []):
            fitting["images"] = known.images
        if {"label", "target"} & said.keys():
            fitting = {name: value for name, value in fitting.items() if name not in _LABELLING}
        options = SourceOptions.of({**fitting, **said})
    return open_source(data, options, least_classes=1)


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
    known = _options(file.provenance)
    store = VideoStore(store) if known and known.every else store
    return BoxStore(store) if file.provenance.get("boxes") else store


def _store_of(file: FeatureFile, named: list[Path]) -> Store:
    known = _options(file.provenance) or SourceOptions()
    if data_set := data_set_of(named[0] if len(named) == 1 else file.provenance.get("data")):
        return data_set.opened(known.path)[2]
    if not named:
        recorded = _recorded(file)
        if are_archives(recorded):
            return archive_store(recorded)
        if addresses := _addresses(recorded):
            return remote_stores(addresses)
        named = [Path(str(file.provenance.get("data")))]
        if not (named[0].exists() or address_of(named[0])):
            raise DataError(f"the images of {file.path} are not in {named[0]} any more. Say where with {opt.data}.")
    if len(named) == 1 and is_table_file(named[0]):
        return open_table_store(named[0], known, lambda images: open_store([images]))
    return open_store(named)


def _addresses(named: list[Path]) -> list[str]:
    """What a user named, if these are addresses.

    Raises:
        DataError: Some are, and others are not.
    """
    found = [address for path in named if (address := address_of(path))]
    if found and len(found) < len(named):
        other = next(path for path in named if not address_of(path))
        raise DataError(f"{found[0]} is an address and {other} is none. Name either addresses or folders.")
    return found


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
