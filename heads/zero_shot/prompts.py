"""Prompts: templates such as "a photo of a {}", filled with names of classes, and the rows of what they become."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onepass.features import FeatureFile
from onepass.features.errors import OptionError, TrainingError, opt

_MOST_BYTES, _MOST_PROMPTS = 1 << 20, 1000

PLACE = "{}"
"""Where a prompt takes the name of a class."""


def prompts_of(given: str | Path | Sequence[str | Path]) -> tuple[str, ...]:
    """Prompts as a user gives them: templates, and files with one a line; empty lines and doubles are left out.

    Raises:
        OptionError: One has no place for a name and is no file, a file cannot be read, or there are none.

    >>> prompts_of(["a photo of a {}", "a blurry photo of a {}."])
    ('a photo of a {}', 'a blurry photo of a {}.')
    """
    several = [given] if isinstance(given, str | Path) else list(given)
    found = [one for text in several for one in ([text] if PLACE in str(text) else _lines(Path(text)))]
    if without := [one for one in found if PLACE not in str(one)]:
        raise OptionError(f"the prompt {without[0]!r} has no {PLACE} for the name of a class.", prompts=given)
    if not 0 < len(found) <= _MOST_PROMPTS:
        raise OptionError(
            f"{opt.prompts} are {len(found)}; needed: 1 to {_MOST_PROMPTS}, such as a photo of a {PLACE}.",
            prompts=given,
        )
    return tuple(dict.fromkeys(map(str, found)))


def _lines(path: Path) -> list[str]:
    try:
        with open(path, "rb") as file:
            text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise ValueError(f"it has more than {_MOST_BYTES:,} bytes")
        return [line.strip() for line in text.decode("utf-8-sig").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError)
        reason = "there is no such file" if missing else getattr(error, "strerror", None) or str(error)
        raise OptionError(
            f"{opt.prompts} is {str(path)!r}, which has no {PLACE} for the name of a class and is no file of prompts "
            f"({reason}). Needed: such as a photo of a {PLACE}, or a text file with one a line.",
            prompts=str(path),
        ) from None


def words_of(class_name: str) -> str:
    """A class as it stands in a text: underscores, as in names of folders, are spaces.

    >>> words_of("golden_retriever")
    'golden retriever'
    """
    return " ".join(class_name.replace("_", " ").split()) or class_name


def check_prompts(file: FeatureFile) -> None:
    """Refuses, before anything heavy is imported, a feature file whose classes cannot be told by their names.

    Raises:
        BackboneError, OptionError: As for `check_text_tower`.
        TrainingError: Two classes have the same name in a text.
    """
    from onepass.extract import BackboneOrigin, check_text_tower

    check_text_tower(file.spec, BackboneOrigin.of(file.provenance))
    first: dict[str, str] = {}
    for name in file.class_names:
        if (other := first.setdefault(words_of(name), name)) != name:
            raise TrainingError(
                f"the classes {other!r} and {name!r} are both {words_of(name)!r} in a text, so their names cannot tell "
                "them apart. Rename one, or join them, and extract again.",
                classes=(other, name),
            )


def class_rows(file: FeatureFile, prompts: Sequence[str]) -> np.ndarray:
    """A row for each class from its name alone, (k, d) float64 of length 1.

    The mean over the prompts of the rows of their texts, each of length 1: an ensemble in the space of the rows, as
    CLIP's own (A. Radford et al. 2021, arXiv:2103.00020, section 3.1.4).

    Args:
        file: Of a network with a text tower.
        prompts: From `prompts_of`.

    Raises:
        BackboneError, OptionError, SpecMismatchError, TrainingError: As for `check_prompts` and `text_rows`.
    """
    from onepass.extract import BackboneOrigin, text_rows

    check_prompts(file)
    texts = tuple(prompt.replace(PLACE, words_of(name)) for name in file.class_names for prompt in prompts)
    rows = text_rows(file.spec, BackboneOrigin.of(file.provenance), texts)
    each = _of_length_1(rows.astype(np.float64)).reshape(len(file.class_names), len(prompts), -1)
    return _of_length_1(each.mean(axis=1))


def _of_length_1(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30))
