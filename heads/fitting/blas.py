"""Keeps the matrix products of numpy and scipy on one thread."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from threadpoolctl import threadpool_limits

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def one_blas_thread(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Runs a function with BLAS on one thread, for the whole process while it lasts.

    The threads of OpenBLAS wait for each other in busy loops. Where another program wants one of the processors, they
    make a fit several times slower than on a single thread. Without them the same fit loses little,
    and what is worth it runs in threads of our own, which sleep while they wait.
    """

    @functools.wraps(function)
    def run(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        with threadpool_limits(1, user_api="blas"):
            return function(*args, **kwargs)

    return run
