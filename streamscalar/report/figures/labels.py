"""Placement of labels so that no two overlap."""

import math
from collections.abc import Sequence


def with_room(at: Sequence[float], limits: tuple[float, float], least: float) -> list[bool]:
    """Return which of the rising positions get a label, at least `least` of the axis apart; the last one always does.

    Examples
    --------
    >>> with_room([0.0, 0.5, 5.0, 9.5, 10.0], (0.0, 10.0), 0.1)
    [True, False, True, False, True]
    """
    span = limits[1] - limits[0]
    named, previous = [], -math.inf
    for place in at:
        is_last = place == at[-1]
        has_room = is_last or ((place - previous) / span >= least and (at[-1] - place) / span >= least)
        named.append(has_room)
        previous = place if has_room else previous
    return named


def spread_labels(heights: Sequence[float], low: float, high: float, least: float) -> list[float]:
    """Return heights at least `least` apart, in the same order, near the given ones and in `[low, high]`.

    Examples
    --------
    >>> spread_labels([1.0, 1.1, 5.0], 0.0, 10.0, 1.0)
    [0.55, 1.55, 5.0]
    """
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    groups: list[list[int]] = []
    centres: list[float] = []
    for index in order:
        groups.append([index])
        centres.append(heights[index])
        while len(groups) > 1 and centres[-1] - centres[-2] < least * (len(groups[-1]) + len(groups[-2])) / 2:
            merged = groups[-2] + groups[-1]
            groups[-2:] = [merged]
            centres[-2:] = [sum(heights[member] for member in merged) / len(merged)]
    placed = [0.0] * len(heights)
    for group, centre in zip(groups, centres, strict=True):
        for rank, index in enumerate(group):
            placed[index] = centre + least * (rank - (len(group) - 1) / 2)
    return _inside(placed, order, low, high, least)


def _inside(placed: list[float], order: Sequence[int], low: float, high: float, least: float) -> list[float]:
    for ranked, bound, sign in ((order, low, 1.0), (order[::-1], high, -1.0)):
        edge = bound
        for index in ranked:
            if sign * (placed[index] - edge) >= 0.0:
                break
            placed[index] = edge
            edge += sign * least
    return placed


def clusters(heights: Sequence[float], least: float) -> list[list[int]]:
    """Return clusters of indices: heights nearer than `least` to a neighbour are in one cluster.

    Examples
    --------
    >>> clusters([5.0, 1.0, 5.2, 1.1], 0.5)
    [[1, 3], [0, 2]]
    """
    found: list[list[int]] = []
    for index in sorted(range(len(heights)), key=lambda index: heights[index]):
        if found and heights[index] - heights[found[-1][-1]] < least:
            found[-1].append(index)
        else:
            found.append([index])
    return found


def in_short(values: Sequence[float], known: Sequence[float]) -> str:
    """Return some of the known values as a short text.

    Examples
    --------
    >>> in_short([1, 2.5, 5, 7.5], [0.5, 1, 2.5, 5, 7.5]), in_short([1, 5], [1, 2.5, 5])
    ('1 to 7.5', '1, 5')
    """
    chosen, ordered = sorted(set(values)), sorted(set(known))
    first = ordered.index(chosen[0])
    if len(chosen) > 2 and ordered[first : first + len(chosen)] == chosen:
        return f"{chosen[0]:g} to {chosen[-1]:g}"
    if len(chosen) > 3:
        return f"{chosen[0]:g}, {chosen[1]:g} ... {chosen[-1]:g}"
    return ", ".join(f"{value:g}" for value in chosen)
