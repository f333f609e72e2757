"""Whether rows fit into the memory that is free, and samples of rows that fit into it."""

import numpy as np

from onepass.features.errors import TrainingError, opt


def require_memory(kind: str, needed: int, free: int, images: int) -> None:
    """Refuses to fit a head that needs all its rows at once and cannot have them.

    Args:
        kind: Of the head.
        needed: Bytes.
        free: Bytes.
        images: How many there are to train on.

    Raises:
        TrainingError: With a number of images that would fit, if any would.
    """
    if needed > free:
        # A Gaussian kernel grows with the square of the images; a share of the root of it fits in any case.
        fit = max(0, int(images * min(free / needed, 1) * 0.9))
        some = f"Train it on some of them with {opt.max_images(fit)}, or take" if fit else "Free some memory, or take"
        raise TrainingError(
            f"{kind} needs about {needed / 1e9:.1f} GB for {images} images, and {free / 1e9:.1f} GB are free. {some} "
            f"{opt.head('mlp')} or linear, which read the file in pieces.",
            needed=needed,
            free=free,
            max_images=fit,
        )


def some_of(rows: np.ndarray, y: np.ndarray, count: int | None, *, seed: int) -> np.ndarray:
    """A stratified sample of at most `count` rows, at least two of each class; all of them for None.

    Args:
        rows: (m,) positions.
        y: (m,) their classes.
        count: How many.
        seed: Of the draw.
    """
    if count is None or count >= len(rows):
        return rows
    order = np.random.default_rng(seed).permutation(len(rows))
    members = [order[y[order] == label] for label in np.unique(y)]
    kept = [some[: max(int(count * len(some) / len(rows)), min(2, len(some)))] for some in members]
    return np.sort(rows[np.concatenate(kept)])
