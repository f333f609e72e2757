"""An augmentation as Keras's own random layers: another view of every image each time."""

from typing import Any

from onepass.extract.frameworks import import_keras
from onepass.extract.pixels.views import Augmentation
from onepass.features.errors import OptionError, opt


def require_drawable(recipe: Augmentation | str | None, *, fixed: bool = False) -> None:
    """Refuses recipes that cannot be drawn from, before anything is computed.

    Args:
        recipe: Or a text for `Augmentation.parse`; None for plain images.
        fixed: Whether views are drawn once by `views` rather than each time by Keras's layers.

    Raises:
        OptionError: It cannot be read, or it crops: Keras's layers cannot cut squares of any size.
    """
    if isinstance(recipe, str):
        recipe = Augmentation.parse(recipe)
    if recipe and recipe.crop < 1 and not fixed:
        raise OptionError(
            f"{opt.augment(recipe)} crops, which Keras's layers cannot. Use zoom, or fixed views of it with "
            f"{opt.views}."
        )


def random_layers(recipe: Augmentation | str, *, seed: int = 0) -> Any:
    """The `keras.Sequential` that draws a view of each image: (b, s, s, 3) of 0..255 -> the same, float32.

    It changes images in training alone. What lies outside an image repeats its edge, as in the seeded views.

    Args:
        recipe: Or a text for `Augmentation.parse`, such as classic.
        seed: Of what is drawn.

    Raises:
        OptionError: As `require_drawable`.
    """
    if isinstance(recipe, str):
        recipe = Augmentation.parse(recipe)
    require_drawable(recipe)
    keras = import_keras()
    layers = keras.layers
    fill = {"fill_mode": "nearest"}
    chosen: list[Any] = [layers.Rescaling(1.0)]  # floats, whatever comes in
    if recipe.flip:
        chosen.append(layers.RandomFlip("horizontal", seed=seed))
    if recipe.rotate:
        chosen.append(layers.RandomRotation(recipe.rotate / 360, seed=seed + 1, **fill))
    if recipe.shift:
        chosen.append(layers.RandomTranslation(recipe.shift, recipe.shift, seed=seed + 2, **fill))
    if recipe.shear:
        chosen.append(layers.RandomShear(recipe.shear, recipe.shear, seed=seed + 3, **fill))
    if recipe.zoom:
        chosen.append(layers.RandomZoom(recipe.zoom, seed=seed + 4, **fill))
    if recipe.brightness:
        chosen.append(layers.RandomBrightness(recipe.brightness, value_range=(0, 255), seed=seed + 5))
    return keras.Sequential(chosen, name="augmentation")
