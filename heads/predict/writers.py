"""Predictions written one by one, to a file or to stdout: text, CSV, JSON, JSON lines, Parquet."""

import contextlib
import csv
import itertools
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Unpack

from onepass.extract import watch_folder
from onepass.features import SkippedImage
from onepass.features.atomic import replacing
from onepass.features.errors import OptionError, OutputError, UnreadableImageError, cannot_write, opt
from onepass.features.names import shown, shown_in
from onepass.features.places import require_place
from onepass.features.tables import Record, command_line
from onepass.heads.predict.classify import (
    Answer,
    PredictOptions,
    answers,
    images_named,
    none_readable,
    ready,
)
from onepass.heads.predict.told import Told, columns
from onepass.heads.saved_head import SavedHead

_GROUP = 1024
"""Rows of a Parquet file that are written together."""


class AnswerWriter(ABC):
    """Takes answers in turn. What text, CSV and JSON lines took is written at once, the others need their end.

    Args:
        file: Open for writing.
        columns: Of a table, path first and skipped last.
        name: Of the file, in messages.

    Attributes:
        name: As given.
        predicted: Images of which something was said so far.
        skipped: The others.
    """

    def __init__(self, file: IO[Any], columns: list[str], name: str) -> None:
        self._file, self._columns, self.name = file, columns, name
        self.predicted = 0
        self.skipped: list[SkippedImage] = []

    def take(self, answer: Answer) -> None:
        """Counts and writes an answer.

        Raises:
            OutputError: The disk is full, say.
        """
        if isinstance(answer, SkippedImage):
            self.skipped.append(answer)
        else:
            self.predicted += 1
        with _writing(self.name):
            self._write(answer)

    @abstractmethod
    def _write(self, answer: Answer) -> None: ...

    def finish(self) -> None:  # noqa: B027 (most need nothing)
        """Ends the file."""


@contextlib.contextmanager
def _writing(name: str | Path) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(cannot_write(name, error, opt.out), path=name) from None


@dataclass(frozen=True)
class Written:
    """What `write_predictions` did.

    Attributes:
        out: The file, or the name of the format that went to stdout.
        predicted: Images classified.
        skipped: Images that could not be read, with the reason.
        interrupted: True if Ctrl-C or SIGTERM ended it; all answers up to then are written.
        next_command: What to do next, as it is typed.
    """

    out: str
    predicted: int
    skipped: list[SkippedImage]
    interrupted: bool = False
    next_command: str = ""

    def __str__(self) -> str:
        if not Path(self.out).suffix:
            return ""
        return f"{shown(self.out)}: {self.predicted} images predicted, {len(self.skipped)} skipped"


def write_predictions(
    head: str | Path | SavedHead,
    images: Iterable[str | Path] = (),
    *,
    out: str = "text",
    watch: str | Path | None = None,
    progress: Callable[[int, int | None, str], None] | None = None,
    **options: Unpack[PredictOptions],
) -> Written:
    """`predict` for any number of images, written while later ones are still being read.

    A file takes its name when it is complete, or when Ctrl-C ends it: a run that is killed or fails leaves none. With
    `watch`, which has no end, answers go straight to the file's place, for others to follow.

    Args:
        head: As for `predict`.
        images: Image files, folders of them, archives and tables; may come one by one and without end.
        out: File that ends in .csv, .json, .jsonl or .parquet; or text, csv, json or jsonl for stdout.
        watch: Goes on with every image that appears in this folder, until it is interrupted.
        progress: Called with images done, None for how many there will be, and the former in words.
        **options: As for `predict`.

    Raises:
        UnreadableImageError: None of the images can be read.
        OptionError: The file exists, has another ending, or an option is wrong.
        OutputError: The disk is full, say.
        UserError: As `predict`.

    >>> from onepass import train_head, write_predictions
    >>> trained = train_head("pets.mine.h5", out="pets.head")
    >>> write_predictions("pets.head", ["new.png", "more/"], out="answers.csv").predicted
    2
    """
    if images == () and not watch:
        raise OptionError(f"no images are named; give files, folders, - for names on stdin, or {opt.watch('FOLDER')}.")
    if watch and Path(out).suffix in (".json", ".parquet"):
        raise OptionError(f"{opt.watch} has no end, which .json and .parquet need; write .csv or .jsonl.", out=out)
    require_answers(out)
    later = watch_folder(Path(watch)) if watch else ()
    saved, backbone, settings = ready(head, options)
    classify = partial(answers, saved, backbone, settings=settings)
    batches = itertools.chain([classify(images_named(images, options))], map(classify, later))
    header = columns(saved, top=settings.top, unknown=settings.unknown is not None)
    interrupted = False
    with open_answers(out, header, follow=watch is not None) as writer:
        try:
            write_answers(itertools.chain.from_iterable(batches), writer, progress=progress)
        except KeyboardInterrupt:
            interrupted = True
        if not (writer.predicted or watch or interrupted):
            raise UnreadableImageError(none_readable(writer.skipped), skipped=writer.skipped)
    following = command_line("onepass", "nearest", saved.path, "IMAGE") if writer.predicted else ""
    return Written(out, writer.predicted, writer.skipped, interrupted, following)


def write_answers(
    answers: Iterable[Answer], writer: AnswerWriter, *, progress: Callable[[int, int | None, str], None] | None = None
) -> None:
    """Writes all answers; `progress` as for `write_predictions`."""
    for done, answer in enumerate(answers, start=1):
        writer.take(answer)
        if progress:
            progress(done, None, f"{done} images")


def open_answers(
    target: str, columns: list[str], *, follow: bool = False
) -> contextlib.AbstractContextManager[AnswerWriter]:
    """A writer for a file by its ending, or to stdout for the bare name of a format.

    The file is there once the block has ended without an error.

    Args:
        target: Path that ends in .csv, .json, .jsonl or .parquet; or csv, json, jsonl or text.
        columns: Of a table; see `columns` in `told`.
        follow: Whether the file is there from the start, for others to follow; it then stays as far as it got.

    Raises:
        OptionError: Another ending, a file that exists, or no such folder.
        OutputError: The place cannot be written.
    """
    bare, kind = require_answers(target)
    make = partial(_WRITERS[kind], columns=columns)
    if bare:
        return _on_stdout(make)
    return _followed(Path(target), make) if follow else _complete(Path(target), make)


def require_answers(target: str) -> tuple[bool, str]:
    """Refuses, before anything is computed, a place that answers cannot be written to.

    Returns:
        Whether it is stdout, and the name of the format.

    Raises:
        OptionError: As `open_answers`.
        OutputError: The folder may not be written.
    """
    bare = target in _WRITERS
    kind = target if bare else Path(target).suffix.lower().removeprefix(".")
    if kind not in _WRITERS or (kind == "text" and not bare):
        raise OptionError(
            f"{opt.out(target)} ends in neither .csv, .json, .jsonl nor .parquet; give it one of these endings, or "
            "csv, json or jsonl alone for stdout."
        )
    if kind == "parquet":
        if bare:
            raise OptionError("Parquet is no text for stdout; give a file name that ends in .parquet.")
        _require_parquet()
    if not bare:
        require_place(target, fresh=True)
    return bare, kind


@contextlib.contextmanager
def _on_stdout(make: Callable[..., AnswerWriter]) -> Iterator[AnswerWriter]:
    writer = make(sys.stdout, name=getattr(sys.stdout, "name", "the answers"))
    try:
        yield writer
    finally:
        with _writing(writer.name):
            writer.finish()
            sys.stdout.flush()


@contextlib.contextmanager
def _complete(path: Path, make: Callable[..., AnswerWriter]) -> Iterator[AnswerWriter]:
    """A file that takes its name when it is complete."""
    require_place(path, fresh=True)
    with contextlib.ExitStack() as stack:
        with _writing(path):
            place = stack.enter_context(replacing(path))
            file = stack.enter_context(_opened(place))
            writer = make(file, name=str(path))
        with _ended(writer):
            yield writer
        with _writing(path):
            file.close()
            require_place(path, fresh=True)
            stack.close()


@contextlib.contextmanager
def _followed(path: Path, make: Callable[..., AnswerWriter]) -> Iterator[AnswerWriter]:
    """A file that is there from the start, and stays as far as it got; unless it got nowhere."""
    require_place(path, fresh=True)
    with contextlib.ExitStack() as stack:
        with _writing(path):
            file = stack.enter_context(_opened(path))
            writer = make(file, name=str(path))
        try:
            with _ended(writer):
                yield writer
        finally:
            if not writer.predicted and not writer.skipped:
                path.unlink(missing_ok=True)  # or the same command would find it in its way


@contextlib.contextmanager
def _ended(writer: AnswerWriter) -> Iterator[None]:
    """Ends what a writer writes; after an error quietly, because that says enough."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            writer.finish()
        raise
    with _writing(writer.name):
        writer.finish()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[Any]]:
    """A new file whose end says nothing: it is closed by then, or a full disk was told already."""
    if path.suffix.lower() == ".parquet":
        file: IO[Any] = open(path, "xb")
    else:
        file = open(path, "x", encoding="utf-8", newline="")
    try:
        yield file
    finally:
        with contextlib.suppress(OSError):
            file.close()


class _Lines(AnswerWriter):
    """One JSON object per line."""

    def _write(self, answer: Answer) -> None:
        self._file.write(json.dumps(_record(answer)) + "\n")
        self._file.flush()


class _Json(AnswerWriter):
    """One JSON object: predictions, then what was skipped."""

    def _write(self, answer: Answer) -> None:
        if isinstance(answer, Told):
            start = '{"predictions": [' if self.predicted == 1 else ","
            self._file.write(f"{start}\n{json.dumps(_record(answer))}")
            self._file.flush()

    def finish(self) -> None:
        start = "" if self.predicted else '{"predictions": ['
        self._file.write(f'{start}\n], "skipped": {json.dumps([_record(image) for image in self.skipped])}}}\n')


class _Text(AnswerWriter):
    """One line per image for people; what was skipped is left out."""

    def _write(self, answer: Answer) -> None:
        if isinstance(answer, Told):
            self._file.write(f"{answer}\n")
            self._file.flush()


class _Csv(AnswerWriter):
    """A table with a header."""

    def __init__(self, file: IO[Any], columns: list[str], name: str) -> None:
        super().__init__(file, columns, name)
        self._table = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        self._table.writeheader()

    def _write(self, answer: Answer) -> None:
        row = _row(answer)
        if "unknown" in row:
            row["unknown"] = "yes" if row["unknown"] else "no"
        self._table.writerow(row)
        self._file.flush()


class _Parquet(AnswerWriter):
    """A table of the same columns as CSV, in row groups of 1,024."""

    def __init__(self, file: IO[Any], columns: list[str], name: str) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        super().__init__(file, columns, name)
        kinds = dict.fromkeys(("probability", "number", "low", "high"), pa.float64()) | {"unknown": pa.bool_()}
        self._schema = pa.schema([(name, kinds.get(name.split("_")[0], pa.string())) for name in columns])
        self._table = pq.ParquetWriter(file, self._schema)
        self._rows: list[Record] = []

    def _write(self, answer: Answer) -> None:
        self._rows.append(_row(answer))
        if len(self._rows) == _GROUP:
            self._flush()

    def finish(self) -> None:
        self._flush()
        self._table.close()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            self._table.write_table(pa.Table.from_pylist(self._rows, self._schema))
            self._rows = []


_WRITERS: dict[str, type[AnswerWriter]] = {
    "csv": _Csv,
    "json": _Json,
    "jsonl": _Lines,
    "parquet": _Parquet,
    "text": _Text,
}


def _record(answer: Answer) -> Any:
    """An answer as JSON takes it, names escaped."""
    return shown_in(answer.record() if isinstance(answer, Told) else asdict(answer))


def _row(answer: Answer) -> Record:
    """An answer by the names of `columns`, names escaped."""
    if isinstance(answer, SkippedImage):
        return {"path": shown(answer.path), "skipped": shown(answer.reason)}
    row: Record = {"path": shown(answer.path), **answer.cells()}
    return row if answer.unknown is None else {**row, "unknown": answer.unknown}


def _require_parquet() -> None:
    try:
        import pyarrow  # noqa: F401
    except ModuleNotFoundError:
        raise OptionError(
            'Parquet files need pyarrow, which is not installed. Run: pip install "onepass[parquet]". Or write .csv.'
        ) from None
