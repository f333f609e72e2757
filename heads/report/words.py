"""How numbers read in a report."""

from collections.abc import Sequence

from onepass.features.names import shown


def percent(share: float, digits: int = 1) -> str:
    """A share in percent.

    >>> percent(0.8693)
    '86.9 %'
    """
    return f"{100 * share:.{digits}f} %"


def chance(probability: float) -> str:
    """A probability in percent that claims no certainty.

    >>> chance(0.9999), chance(0.874), chance(0.004), chance(0.0)
    ('over 99 %', '87 %', '0.4 %', 'under 0.1 %')
    """
    if probability >= 0.995:
        return "over 99 %"
    if probability < 0.001:
        return "under 0.1 %"
    return percent(probability, 0 if probability >= 0.01 else 1)


def between(interval: Sequence[float]) -> str:
    """An interval of shares.

    >>> between((0.837, 0.896))
    '83.7 to 89.6 %'
    """
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %"


def count_of(count: int, what: str, several: str = "") -> str:
    """A number with its noun.

    >>> count_of(1, "image"), count_of(2527, "image"), count_of(0, "copy", "copies")
    ('1 image', '2,527 images', 'no copies')
    """
    noun = what if count == 1 else several or f"{what}s"
    return f"{f'{count:,}' if count else 'no'} {noun}"


def listed(names: Sequence[str], most: int = 4) -> str:
    """Names with commas.

    >>> listed(["ant", "bee", "fly"])
    'ant, bee and fly'
    """
    some = [shown(name) for name in names[:most]]
    if len(names) > most:
        return f"{', '.join(some)} and {len(names) - most} more"
    return some[0] if len(some) == 1 else f"{', '.join(some[:-1])} and {some[-1]}"


def sentence(text: str) -> str:
    """A text that begins with a capital and ends with a full stop."""
    return f"{text[:1].upper()}{text[1:]}" + ("" if text[-1:] in ".!?" else ".")
