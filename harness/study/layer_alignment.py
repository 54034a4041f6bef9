"""What the errors of different linears share, from the matrices of scalar products of `study replay`.

The matrix of one linear says how alike its errors in two micro batches are. Two linears go together if the same pairs
of micro batches are alike in both. The measure is centred kernel alignment (CKA; Kornblith et al., arXiv 1905.00414)
with the unbiased estimate of Song et al. (JMLR 2012), in its U-centred form (Szekely and Rizzo, Annals of Statistics
2014): 0 for errors that vary independently over micro batches, 1 for errors that vary in the same way. Centring removes
what is the same in every micro batch, so that the systematic error does not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.study.gradient_error import Matrix


def alignment(matrices: Sequence[Matrix]) -> float | None:
    """Return the mean CKA over pairs of linears; None for fewer than two linears with any variation.

    Args:
        matrices: (n, n) scalar products of each linear, n at least 4.
    """
    flat = np.stack([_centred(one).ravel() for one in matrices])
    products: Any = flat @ flat.T
    size = np.sqrt(np.diag(products))
    known = size > 0
    if known.sum() < 2:
        return None
    ratios = products[known][:, known] / np.outer(size[known], size[known])
    count = len(ratios)
    return float((ratios.sum() - np.trace(ratios)) / (count * (count - 1)))


def _centred(matrix: Matrix) -> Matrix:
    """Subtract the means of rows and columns without the diagonal, which is set to 0."""
    n = len(matrix)
    kernel = matrix - np.diag(np.diag(matrix))
    rows = kernel.sum(1) / (n - 2)
    found = kernel - rows[:, None] - rows[None, :] + kernel.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(found, 0.0)
    return np.asarray(found, dtype=np.float64)
