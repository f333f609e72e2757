"""The spec: everything that determines a row, so that equal specs mean comparable rows."""

import dataclasses
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from textwrap import indent
from typing import Any, Self

from onepass.features.errors import LINE, FeatureFileError, OptionError, SpecMismatchError
from onepass.features.preprocess import Preprocess, ResizeRule
from onepass.features.tables import text_table

TOKEN_POOLINGS = ("cls", "mean", "cls+mean", "last4")
"""How the tokens of a transformer become a row."""

_CHOICES = {
    "pooling": ("avg", "max", "flatten", "pooled", *TOKEN_POOLINGS),
    "precision": ("float32", "bfloat16", "int8"),
}

_SENSE: dict[str, tuple[Callable[[Any], object], str]] = {
    "backbone": (bool, "a name"),
    "weights_hash": (re.compile("[0-9a-f]{64}").fullmatch, "a SHA-256 in hexadecimal"),
    "image_size": (lambda size: 8 <= size <= 4096, "8 to 4096 pixels"),
    "resize": (lambda rule: _is_rule(rule), "squash, crop, pad, keras or a rule such as shortest256-bicubic"),
    "decode": (bool, "the name of a rule"),
    "views": (bool, "a recipe"),
    "width": (lambda width: 1 <= width < 2**31, "1 or more"),
    "calibration": (re.compile("[0-9a-f]*").fullmatch, "hexadecimal digits, or none"),
}


_LATER: dict[str, Any] = {"preprocess": None, "provider": "keras", "licence": ""}
"""Fields that files of version 0.1 lack, and what stands for them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Spec:
    """What a row was computed with. Two specs are equal if their rows can stand in one table.

    Attributes:
        backbone: Catalogue name, or the last part of what names a network elsewhere (stem of a file, name of a folder
            or of a pretrained model); with @ and the layer if it is cut there.
        weights: Where the weights came from, for people; `weights_hash` decides equality.
        weights_hash: SHA-256, hexadecimal, of the weight arrays (of the file for `.keras`).
        image_size: Side of the square input, pixels.
        resize: How an image becomes square, see `ResizeRule`.
        decode: Name of the rule for colour, alpha, bit depth, EXIF and scaled JPEG decoding; it ends in -depth12
            where 12 bits of 16-bit values are in use.
        pooling: avg, max or flatten of a feature map; cls, mean, cls+mean or last4 of tokens; pooled for the
            network's own vector.
        views: Recipe of the views beyond the first; "plain" if there are none. It does not count in
            comparisons, because view 0 is the plain image in every file.
        precision: float32, bfloat16 or int8, the precision the backbone computed in.
        width: Length d of a row.
        calibration: int8: hash, hexadecimal, of what the quantised graph was calibrated with; else "".
        preprocess: What happens to an image before the network; None in files of version 0.1, which hold rows of
            networks whose arithmetic follows from their name.
        provider: Where the network comes from: keras, onnx, hf, keras-hub, timm, or a registered one.
        licence: Of the weights, as far as it is known; for people.
    """

    backbone: str
    weights: str = field(compare=False)
    weights_hash: str
    image_size: int
    resize: str
    decode: str
    pooling: str
    views: str = field(default="plain", compare=False)
    precision: str
    width: int
    calibration: str = ""
    preprocess: Preprocess | None = None
    provider: str = field(default="keras", compare=False)
    licence: str = field(default="", compare=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spec) and not self.differences(other)

    def __hash__(self) -> int:
        return hash((self.backbone, self.weights_hash))

    def __str__(self) -> str:
        return (
            f"{self.backbone} {self.weights} {self.image_size} px, {self.resize}, {self.pooling}, "
            f"{self.precision} ({self.width} wide)"
        )

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Reads a spec back.

        Raises:
            FeatureFileError: The text is not JSON, or fields are missing, unknown, of another type or make no sense.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise FeatureFileError(f"the spec is not JSON ({error}); the file is damaged.") from None
        wanted: dict[str, Any] = {f.name: f.type for f in dataclasses.fields(cls)}
        if not isinstance(values, dict) or not wanted.keys() - _LATER.keys() <= values.keys() <= wanted.keys():
            found = ", ".join(sorted(values)) if isinstance(values, dict) else type(values).__name__
            raise FeatureFileError(
                f"the spec has the fields {found}; needed: {', '.join(sorted(wanted))}. "
                "The file is damaged or was written by another version of onepass."
            )
        values = _LATER | values
        values["preprocess"] = _preprocess(values["preprocess"])
        del wanted["preprocess"]
        for name, kind in wanted.items():
            if type(values[name]) is not kind:
                raise FeatureFileError(
                    f"the spec's {name} is {values[name]!r}; needed: {kind.__name__}. The file is damaged."
                )
        for name, choices in _CHOICES.items():
            if values[name] not in choices:
                raise FeatureFileError(
                    f"the spec's {name} is {values[name]!r}; needed: {', '.join(choices)}. The file is damaged, or a "
                    "newer onepass wrote it."
                )
        for name, (makes_sense, needed) in _SENSE.items():
            if not makes_sense(values[name]):
                raise FeatureFileError(
                    f"the spec's {name} is {str(values[name])[:80]!r}; needed: {needed}. The file is damaged."
                )
        made: Preprocess | None = values["preprocess"]
        if made and (made.resize, made.size) != (values["resize"], values["image_size"]):
            raise FeatureFileError(
                f"the spec's resize is {values['resize']} to {values['image_size']} px, its preprocess {made}. "
                "The file is damaged."
            )
        return cls(**values)

    def differences(self, other: "Spec") -> dict[str, tuple[Any, Any]]:
        """Fields that keep the rows of two specs apart: name -> (this one's value, the other's)."""
        same = _same_arithmetic(self.preprocess, other.preprocess)
        compared = [f.name for f in dataclasses.fields(self) if f.compare and not (same and f.name == "preprocess")]
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in compared}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _same_arithmetic(left: Preprocess | None, right: Preprocess | None) -> bool:
    """Whether two specs do the same to the values of pixels, as far as both say; how pixels are made has its fields."""
    return left is None or right is None or left.resized(right.resize, right.size) == right


def _is_rule(text: str) -> bool:
    try:
        ResizeRule.parse(text)
        return True
    except OptionError:
        return False


def _preprocess(facts: Any) -> Preprocess | None:
    try:
        return None if facts is None else Preprocess.from_facts(facts)
    except ValueError as error:
        raise FeatureFileError(f"the spec's preprocess cannot be read: {error}. The file is damaged.") from None


def require_equal_specs(left: Spec, right: Spec, *, left_name: str, right_name: str, remedy: str) -> None:
    """Refuses two specs that differ and shows them side by side.

    Raises:
        SpecMismatchError: With a line per differing field, and `remedy` as the last line.
    """
    differing = left.differences(right)
    if not differing:
        return
    if "weights_hash" in differing and left.weights != right.weights:
        differing = {"weights": (left.weights, right.weights), **differing}
    rows = [("", left_name, right_name), *((name, _short(a), _short(b)) for name, (a, b) in differing.items())]
    table = indent(text_table(rows), "  ").replace("\n", LINE)
    raise SpecMismatchError(
        f"{left_name} holds {left}; {right_name} needs {right}. They differ in:{LINE}{table}{LINE}{remedy}",
        differences=differing,
    )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:16] + "…"
