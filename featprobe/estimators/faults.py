"""Errors that are featprobe's own words and scikit-learn's kind at once: its tools expect ValueError."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from featprobe.errors import FeatprobeError


class EstimatorError(FeatprobeError, ValueError):
    """What an estimator was given can't be used."""


@contextlib.contextmanager
def as_value_error() -> Iterator[None]:
    """Every FeatprobeError inside leaves as an EstimatorError with the same words."""
    try:
        yield
    except EstimatorError:
        raise
    except FeatprobeError as error:
        raise EstimatorError(error.wrong, error.known, error.next_step) from error
