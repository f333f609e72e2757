"""What a command asks for, given what the feature file has already: views, groups, type of the rows."""

from dataclasses import dataclass

from onepass.extract.data.groups import GroupRule, Groups
from onepass.extract.pixels.views import Augmentation, view_recipe
from onepass.features import FeatureFile
from onepass.features.errors import OptionError, opt
from onepass.features.layout import ROW_DTYPES

DEFAULT_AUGMENT = "classic"


@dataclass(frozen=True)
class ViewAxis:
    """The views of a feature file.

    Attributes:
        count: Views per image, the plain one included.
        augmentation: What the others are drawn from; None if there are no others.
    """

    count: int = 1
    augmentation: Augmentation | None = None

    @property
    def recipe(self) -> str:
        """How a spec names it."""
        return view_recipe(self.augmentation) if self.augmentation else "plain"


def choose_views(old: FeatureFile | None, views: int | None, augment: str | None) -> ViewAxis:
    """The views that a command asks for, given what the file holds already.

    Raises:
        OptionError: The number is out of range, or the file holds other or more views.
    """
    if views is not None and not 1 <= views <= 1000:
        raise OptionError(f"{opt.views} is {views}; needed: 1 to 1000.")
    held = old.views if old else 1
    if held > 1 and views is not None and views < held:
        raise OptionError(
            f"{old and old.path} holds {held} views per image; none is dropped. Choose another {opt.out}."
        )
    count = views or held
    if count == 1:
        if augment:
            raise OptionError(
                f"{opt.augment} needs {opt.views}, how many views each image shall have, such as {opt.views(8)}."
            )
        return ViewAxis()
    text = augment or (str((old and old.provenance.get("augment")) or DEFAULT_AUGMENT))
    axis = ViewAxis(count, Augmentation.parse(text))
    if old and held > 1 and old.spec.views != axis.recipe:
        raise OptionError(
            f"{old.path} holds views of the recipe {old.spec.views}; this command asks for {axis.recipe}. "
            f"Leave {opt.augment} out, or choose another {opt.out}."
        )
    return axis


def choose_groups(old: FeatureFile | None, groups: Groups | None, pattern: str | None) -> GroupRule | None:
    """What gives the images their groups; None if they keep those that the file has.

    Raises:
        OptionError: Both are given, or the pattern is none.
        DataError: The table cannot be read.
    """
    if old and groups is None and pattern is None:
        pattern = old.provenance.get("group_pattern")
    return GroupRule.of(groups, pattern)


def choose_row_dtype(old: FeatureFile | None, row_dtype: str | None) -> str:
    """What rows are stored as: as a command asks for, else as the file has them, else float32.

    Raises:
        OptionError: It is neither float32 nor float16.
    """
    if row_dtype not in (None, *ROW_DTYPES):
        raise OptionError(f"{opt.row_dtype} is {row_dtype!r}; needed: {' or '.join(ROW_DTYPES)}.")
    return row_dtype or (old.row_dtype if old else "float32")
