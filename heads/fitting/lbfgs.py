"""Minimises a smooth convex function of many variables: limited-memory BFGS.

scipy's L-BFGS-B minds bounds that the heads do not have, and that costs it as much as the function
itself once there are 10^5 variables; without them the method is a few vector products a step.
"""

from collections import deque
from collections.abc import Callable

import numpy as np

Objective = Callable[[np.ndarray], tuple[float, np.ndarray]]


def minimize_convex(
    objective: Objective, start: np.ndarray, *, tolerance: float, max_steps: int = 300, memory: int = 8
) -> np.ndarray:
    """Finds the minimum of a convex function.

    Args:
        objective: (v,) float64 -> value and (v,) derivative.
        start: (v,) float64, where to begin.
        tolerance: Ends when no derivative is larger than this.
        max_steps: Ends then at the latest.
        memory: Steps that the curvature is estimated from.

    Returns:
        (v,) the best point found.

    Source: J. Nocedal and S. J. Wright (2006), Numerical Optimization, algorithms 7.4 and 3.1.
    """
    point, (value, slope) = start, objective(start)
    past: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=memory)
    for _ in range(max_steps):
        if np.abs(slope).max() <= tolerance:
            break
        direction = -_inverse_hessian_times(slope, past)
        descent = float(direction @ slope)
        # Without curvature yet, one step of length 1 at most.
        step = 1.0 if past else min(1.0, 1.0 / float(np.linalg.norm(direction)))
        while True:
            found, (found_value, found_slope) = point + step * direction, objective(point + step * direction)
            if found_value <= value + 1e-4 * step * descent:
                break
            # The minimum of the parabola through both values and the slope, kept within sane limits.
            curvature = 2 * (found_value - value - step * descent)
            step *= min(0.5, max(0.1, -step * descent / curvature if curvature > 0 else 0.5))
            if step < 1e-10:
                return point  # Rounding hides any further descent.
        moved, changed = found - point, found_slope - slope
        if moved @ changed > 0:
            past.append((moved, changed))
        point, value, slope = found, found_value, found_slope
    return point


def _inverse_hessian_times(slope: np.ndarray, past: deque[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    result = slope.copy()
    shares = []
    for moved, changed in reversed(past):
        share = float(moved @ result) / float(moved @ changed)
        result -= share * changed
        shares.append(share)
    if past:
        moved, changed = past[-1]
        result *= float(moved @ changed) / float(changed @ changed)
    for (moved, changed), share in zip(past, reversed(shares), strict=True):
        result += (share - float(changed @ result) / float(moved @ changed)) * moved
    return result
