"""Images that are exact copies of each other, and where that does harm."""

from dataclasses import dataclass

from onepass.features.file import FeatureFile
from onepass.features.names import shown
from onepass.features.splits import SPLITS


@dataclass(frozen=True)
class DuplicateGroup:
    """Images whose files are equal byte for byte.

    Attributes:
        paths: Two or more.
        splits: Splits they lie in; more than one means that a score there is not honest.
        classes: What they are labelled; more than one means that a label is wrong.
    """

    paths: list[str]
    splits: list[str]
    classes: list[str]


def find_duplicates(file: FeatureFile) -> list[DuplicateGroup]:
    """Images of a feature file that are exact copies of each other."""
    table = file.table
    labels = table.label_texts()
    return [
        DuplicateGroup(
            paths=[table.paths[i] for i in group],
            splits=sorted({SPLITS[i] for i in table.splits[group]}),
            classes=sorted({labels[i] for i in group.tolist()}),
        )
        for group in table.duplicates()
    ]


def describe_duplicates(groups: list[DuplicateGroup]) -> str:
    """One line on exact copies, and where they do harm."""
    copies = sum(len(group.paths) - 1 for group in groups)
    text = f"{copies} {'image is an exact copy' if copies == 1 else 'images are exact copies'} of another"
    across = [group for group in groups if len(group.splits) > 1]
    if across:
        text += f"; {len(across)} of {len(groups)} groups in more than one split, such as {_named(across[0])}"
    unclear = [group for group in groups if len(group.classes) > 1]
    if unclear:
        text += f"; {len(unclear)} of {len(groups)} groups in more than one class, such as {_named(unclear[0])}"
    return text


def _named(group: DuplicateGroup) -> str:
    return " = ".join(map(shown, group.paths[:3]))


def describe_equal_rows(images: int) -> str:
    """What to tell whoever has a file in which all rows are equal."""
    return (
        f"all {images} rows are equal, so no head can tell the classes apart. Look at the images: are they all black, "
        "or copies of one picture?"
    )
