"""The report: any file of onepass in, one HTML file out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from onepass.extract import check_running
from onepass.features import FeatureFile, only_feature_file
from onepass.features.atomic import replacing
from onepass.features.errors import FileKindError, HeadFileError, OptionError, OutputError, cannot_write, opt
from onepass.features.names import shown
from onepass.features.places import require_place
from onepass.features.progress import phase
from onepass.features.tables import Record, command_line
from onepass.heads.file_kinds import FileKind, classifier_file, file_kind
from onepass.heads.finetune.model_file import read_facts
from onepass.heads.fitting.blas import one_blas_thread
from onepass.heads.predict.classify import describe_classifier
from onepass.heads.predict.exported import certificate_of
from onepass.heads.predict.nearest import training_file
from onepass.heads.report.answer import about_images, headline, next_steps, paragraphs, scores_chart
from onepass.heads.report.comparison import story_of_comparison
from onepass.heads.report.findings import findings
from onepass.heads.report.marked import exactly_explained
from onepass.heads.report.material import Material, of_answers, of_certificate, of_head
from onepass.heads.report.mistakes import Explained, Heat, mistakes
from onepass.heads.report.page.html import page
from onepass.heads.report.page.parts import Cards, RowMap, Section, Story
from onepass.heads.report.page.thumbnails import MOST, Pictures, atlas_of, pictures_of
from onepass.heads.report.performance import performance
from onepass.heads.report.row_map import row_map
from onepass.heads.report.tuning import answers_of, told_of
from onepass.heads.saved_head import SavedHead


@dataclass(frozen=True)
class Report:
    """A report that was written.

    Attributes:
        path: The HTML file.
        story: What it says.
        bytes: Its size.
        pictures: How many are in it; and
        gone: how many images were not there any more.
    """

    path: Path
    story: Story
    bytes: int
    pictures: int
    gone: int

    def __str__(self) -> str:
        gone = f"; {self.gone} images are gone, and are in grey or missing" if self.gone else ""
        sections = ", ".join(one.name for one in self.story.sections)
        size = f"{self.bytes / 1e6:.2f} MB with {self.pictures} pictures"
        return f"{shown(self.path)}: {self.story.title}\n{size}{gone}: {sections}"

    @property
    def next_command(self) -> str:
        """What the report itself says to do next, as it is typed."""
        return next((command for _, command in self.story.steps if command), "")

    def record(self) -> Record:
        """What the report says, as plain values for JSON."""
        own = {"path": str(self.path), "bytes": self.bytes, "pictures": self.pictures, "gone": self.gone}
        return {**own, **self.story.record()}


@one_blas_thread
def report(
    path: str | Path | None = None,
    *,
    out: str | Path = "report.html",
    data: str | Path | Sequence[str | Path] = (),
    features: str | Path | None = None,
    max_images: int = MOST,
    images: bool = True,
    explain: bool = True,
    heat: Heat | None = None,
) -> Report:
    """Writes one HTML file about a file of onepass, which opens offline and can be mailed.

    It asks nobody for anything: style, script and pictures lie in it. The same input gives the same bytes.

    Args:
        path: Feature file (by default the one in this folder), head file, model that `fine_tune` or `export` wrote, its
            certificate, or what compare-heads or choose printed with --json.
        out: The HTML file; one that is there is replaced.
        data: Where the images lie now, if they were moved.
        features: Feature file of the training, if it was moved.
        max_images: Pictures in it, at most.
        images: False for none at all, not even grey thumbnails; the names of the files stay.
        explain: Whether the network looks at the worst mistakes again, to mark what the answers came from: of heads for
            which that can be told exactly, see `explain`.
        heat: The same marked by somebody else: name of an image in the feature file -> (h, w, 3) uint8.

    Raises:
        OptionError: An option is wrong.
        FileKindError: It is another kind of file.
        UserError: It cannot be read, or does not go with its feature file.
        OutputError: The report cannot be written.

    >>> print(report("photos.h5", images=False))
    report.html: 120 images, 3 classes: no pictures appear twice, ...
    ... MB with 0 pictures: map, duplicates, doubts
    """
    if max_images < 0:
        raise OptionError(f"{opt.max_images} is {max_images}; needed: 0 or more.", max_images=max_images)
    require_place(out, endings=(".html", ".htm"))
    check_running(data=data)
    most = max_images if images else 0
    folders = [Path(data)] if isinstance(data, str | Path) else [Path(one) for one in data]
    path = Path(path) if path is not None else only_feature_file()
    kind = file_kind(path)
    if kind is FileKind.COMPARISON:
        return _write(Path(out), story_of_comparison(path), Pictures(), "")
    if kind in (FileKind.FEATURES, FileKind.MISSING) and path.suffix != ".head":
        with FeatureFile(path) as file:
            return _about(file, _of_images(Material(file), path), Path(out), folders, most)
    try:
        path, kind = classifier_file(path)
    except HeadFileError as error:
        if kind is FileKind.MISSING:
            raise
        raise FileKindError(
            f"{path} is {kind}; needed: a feature file, a head, a model, a certificate, or what compare-heads "
            f"{opt.json(True)} printed.",
            path=path,
        ) from error
    saved = describe_classifier(path)
    with FeatureFile(features or training_file(saved)) as file:
        explained: Explained | None = None
        if heat is not None:
            given = heat
            explained = lambda _: (given, ())  # noqa: E731
        elif explain and most and kind is FileKind.HEAD:
            explained = exactly_explained(saved, file, folders)
        return _about(file, _of_classifier(file, saved, path, kind, explained), Path(out), folders, most)


def _about(file: FeatureFile, story: Story, out: Path, data: Sequence[Path], most: int) -> Report:
    """Writes a story with the pictures of a feature file."""
    with phase("reading pictures"):
        cards = [card for part in story.every_part() if isinstance(part, Cards) for card in part.cards]
        marked = {card.image: card.heat for card in cards if card.image is not None and card.heat is not None}
        pictures = pictures_of(file, story.images(), data=data, most=most, heat=marked) if most else Pictures()
        maps = [part for part in story.every_part() if isinstance(part, RowMap)]
        atlas = atlas_of(file.thumbnails[maps[0].positions]) if maps and most else ""
    return _write(out, story, pictures, atlas)


def _write(out: Path, story: Story, pictures: Pictures, atlas: str) -> Report:
    text = page(story, pictures, atlas).encode("utf-8", "replace")
    try:
        with replacing(out) as beside:
            beside.write_bytes(text)
    except OSError as error:
        raise OutputError(cannot_write(out, error, opt.out), path=out) from None
    return Report(out, story, len(text), len(pictures.of) + len(pictures.heat), pictures.gone)


def _of_images(material: Material, path: Path) -> Story:
    title, words = about_images(material)
    following = ("Train a first head; it takes seconds.", command_line("train-head", path))
    return Story(
        kicker=f"{shown(path.name)} · {material.file}",
        title=title,
        words=words,
        parts=(),
        steps=next_steps(material, following),
        sections=_sections([row_map(material), *findings(material)]),
    )


def _of_classifier(
    file: FeatureFile, saved: SavedHead, path: Path, kind: FileKind, explained: Explained | None
) -> Story:
    if kind is FileKind.TUNED:
        return _of_tuned(file, saved, path, explained)
    if kind is FileKind.HEAD:
        step = ("Or take this one into production.", command_line("onepass", "export", path, "--to", "onnx"))
        return _of_head(of_head(file, saved), f"{saved.kind} head on {saved.spec.backbone}", step, explained)
    proven = certificate_of(path)
    step = ("See that it does the same on another machine.", command_line("onepass", "verify", path))
    story = _of_head(of_certificate(file, saved, proven), f"{saved.kind}, exported", step, explained)
    return replace(story, words=[*story.words, f"This was measured by the model itself, from image files: {proven}."])


def _of_head(material: Material, what: str, following: tuple[str, str], explained: Explained | None) -> Story:
    assert material.head is not None
    assert material.judged is not None
    score = material.judged.score
    return Story(
        kicker=f"{shown(material.head.path.name)} · {what} · {score.measured_on} images",
        title=headline(score),
        words=[words for words in paragraphs(score, material.judged) if words],
        parts=scores_chart(score),
        steps=next_steps(material, following),
        sections=_sections(
            [mistakes(material, explained), row_map(material), performance(material), *findings(material)]
        ),
    )


def _of_tuned(file: FeatureFile, saved: SavedHead, path: Path, explained: Explained | None) -> Story:
    facts = read_facts(path)
    told, material = told_of(path, facts, file), Material(file, saved)
    if (answers := answers_of(facts)) is not None:
        contents, before, after = answers
        kept = after if facts["report"]["kept"] == "fine-tuned" else before
        material = of_answers(file, saved, contents, kept)
    sections = [
        told.section,
        mistakes(material, explained),
        row_map(material),
        performance(material),
        *findings(material),
    ]
    return Story(
        kicker=f"{shown(path.name)} · fine-tuned {saved.spec.backbone}",
        title=told.title,
        words=told.words,
        parts=told.parts,
        steps=next_steps(material, told.step),
        sections=_sections(sections),
    )


def _sections(sections: Sequence[Section | None]) -> list[Section]:
    """Those that there are; a part of pictures without any is left out."""
    there = [one for one in sections if one is not None]
    return [
        replace(one, parts=[part for part in one.parts if not (isinstance(part, Cards) and not part.cards)])
        for one in there
    ]
