"""Optimal one-to-one assignment of predictions to targets."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

# Stands for costs that are not numbers, which scipy refuses: the losses then show the NaN.
WORST_COST = 1e6


@dataclass(frozen=True)
class Assignment:
    """The query of every target, for each supervised output.

    Attributes:
        query_index: ``(L, N)`` int64, query of the target within its image; 0 if it has none.
        matched: ``(L, N)`` bool, False for targets left over in images with more than Q of them.
    """

    query_index: Tensor
    matched: Tensor


def assign(costs: Tensor, counts: Sequence[int]) -> Assignment:
    """Matches at the lowest total cost; one copy to the host for the whole batch.

    Args:
        costs: ``(L, B, Q, T)`` of each pair of query and target, T the largest of ``counts``;
            columns beyond an image's own count mean nothing.
        counts: targets of each image, N in total.

    Returns:
        The assignment, on the device of ``costs``.
    """
    matrices = costs.nan_to_num(WORST_COST, WORST_COST, -WORST_COST).cpu().numpy()
    query_index = np.zeros((len(matrices), sum(counts)), dtype=np.int64)
    matched = np.zeros_like(query_index, dtype=bool)
    start = 0
    for image, count in enumerate(counts):
        for output, matrix in enumerate(matrices[:, image, :, :count]):
            queries, columns = linear_sum_assignment(matrix)
            query_index[output, start + columns] = queries
            matched[output, start + columns] = True
        start += count
    return Assignment(
        torch.from_numpy(query_index).to(costs.device), torch.from_numpy(matched).to(costs.device)
    )
