"""A data set of TensorFlow Datasets, copied undecoded into one Parquet file that is kept among the downloads."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from onepass.extract.data.downloads import Downloads
from onepass.extract.data.parquet_store import ParquetStore
from onepass.extract.data.records import Records, parquet_records
from onepass.extract.frameworks import import_tensorflow_datasets
from onepass.features.errors import DataError, opt
from onepass.features.progress import phase

_SPLIT = "split"
_AT_ONCE = 1000
"""Images that are written at once."""


def tensorflow_set(name: str, version: str | None, column: str | None) -> tuple[Records, ParquetStore, str]:
    """A data set; its images stay undecoded.

    Args:
        name: As TensorFlow Datasets calls it, with a slash and a configuration if it has several; or the folder of one
            that was prepared.
        version: By default the newest.
        column: That holds the images, if several do.

    Returns:
        What it says of its images, these, and its version.

    Raises:
        DataError: It cannot be had, or holds no images.
    """
    library = import_tensorflow_datasets()
    if not Path(name).is_dir() and not re.fullmatch(r"\w+(/[\w.+-]+)?", name):
        raise DataError(f"tfds:{name} names no data set; needed: tfds:name, tfds:name/configuration or a folder.")
    with _refused(name):
        library.disable_progress_bar()
        if Path(name).is_dir():
            builder = library.builder_from_directory(name)
        else:
            builder = library.builder(f"{name}:{version}" if version else name)
            with phase(f"preparing tfds:{name}"):
                builder.download_and_prepare()
        features = builder.info.features
        images = _image_column(library, name, features, column)
        known = builder.info.full_name, builder.data_path, builder.info.dataset_size, images
        key = f"tfds {' '.join(map(str, known))} {builder.info.splits.total_num_examples}"
        path = Downloads().file(key, None, 0, lambda beside: _copy(library, builder, images, beside))
    found = str(builder.version)
    called = f"tfds:{name}@{found}"
    store = ParquetStore(path, "image", known_as=called)
    labels = [one for one, feature in features.items() if isinstance(feature, library.features.ClassLabel)]
    usual = {"label": labels[0]} if len(labels) == 1 else {}
    if len(builder.info.splits) > 1:
        usual[_SPLIT] = _SPLIT
    return replace(parquet_records(path), path=Path(called), usual=usual), store, found


def _image_column(library: Any, name: str, features: Any, wanted: str | None) -> str:
    images = [one for one, feature in features.items() if isinstance(feature, library.features.Image)]
    if wanted in images or (len(images) == 1 and not wanted):
        return wanted or images[0]
    if images:
        raise DataError(f"tfds:{name} holds images in {', '.join(images)}. Say by {opt.path} which are meant.")
    raise DataError(f"tfds:{name} has no column of images; it has {', '.join(features)[:200]}.")


def _copy(library: Any, builder: Any, images: str, path: Path) -> None:
    """Writes image, split and all plain features of every example."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    features = builder.info.features
    plain = [one for one, feature in features.items() if one != images and _is_plain(library, feature)]
    kinds = [
        pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        pa.field(_SPLIT, pa.string()),
    ]
    kinds += [pa.field(one, _kind(library, features[one])) for one in plain if one != _SPLIT]
    schema = pa.schema(kinds)
    with pq.ParquetWriter(path, schema, compression="none") as writer:
        rows: list[dict[str, Any]] = []
        for split in builder.info.splits:
            data = builder.as_dataset(
                split=split, decoders={images: library.decode.SkipDecoding()}, shuffle_files=False
            )
            for number, example in enumerate(library.as_numpy(data)):
                named = {one: _value(library, features[one], example[one]) for one in plain}
                cell = {"bytes": bytes(example[images]), "path": f"{split}/{number:08d}"}
                rows.append({"image": cell, _SPLIT: split, **named})
                if len(rows) == _AT_ONCE:
                    writer.write_table(pa.Table.from_pylist(rows, schema))
                    rows = []
        writer.write_table(pa.Table.from_pylist(rows, schema))


def _is_plain(library: Any, feature: Any) -> bool:
    inner = feature.feature if isinstance(feature, library.features.Sequence) else feature
    return isinstance(inner, library.features.Tensor | library.features.Text) and inner.shape == ()


def _kind(library: Any, feature: Any) -> Any:
    import pyarrow as pa

    if isinstance(feature, library.features.Sequence):
        return pa.list_(_kind(library, feature.feature))
    if isinstance(feature, library.features.ClassLabel | library.features.Text):
        return pa.string()
    return pa.from_numpy_dtype(feature.np_dtype) if feature.np_dtype.kind in "biuf" else pa.string()


def _value(library: Any, feature: Any, value: Any) -> Any:
    if isinstance(feature, library.features.Sequence):
        return [_value(library, feature.feature, one) for one in value]
    if isinstance(feature, library.features.ClassLabel):
        return feature.int2str(int(value)) if value >= 0 else None
    return value.decode(errors="replace") if isinstance(value, bytes) else value.item()


@contextlib.contextmanager
def _refused(name: str) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # of its own kinds, of the network and of the disk
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"tfds:{name} cannot be had: {lines[0].rstrip('.')[:300]}.") from None
