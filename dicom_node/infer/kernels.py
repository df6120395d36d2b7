"""Compiled loops over the source grid: nearest, trilinear, and the argmax of trilinear scores.

What comes in: arrays on the network's grid, whose axes run along the source's, and a matrix `(3, 4)` from
source voxel to network voxel. What goes out: rows `begin` to `end` of an array on the source grid, written
in place. All release the GIL, touch no other slices, and never allocate on the source grid.
"""

import os
from pathlib import Path

import numpy as np
from numba import njit

BEYOND = 1.0
"""Voxels of the network's grid by which a source voxel may lie outside it and still take its edge:
resampling rounds the grid's size, and cropping to the foreground cuts closer than that to nothing."""

_CACHE = os.access(Path(__file__).parent, os.W_OK) or "NUMBA_CACHE_DIR" in os.environ
_compiled = njit(nogil=True, cache=_CACHE, boundscheck=False)


@_compiled
def _outside(position, length):  # type: ignore[no-untyped-def]
    return position < -BEYOND or position > length - 1 + BEYOND


@_compiled
def _closest(position, length):  # type: ignore[no-untyped-def]
    # half to even, so that ties (a grid of exactly twice the spacing) shift nothing
    return min(max(int(np.rint(position)), 0), length - 1)


@_compiled
def nearest(values, matrix, out, begin, end):  # type: ignore[no-untyped-def]
    """`out[begin:end]` from the nearest of `values`, `(a, b, c)` and `(z, y, x)` of one type."""
    na, nb, nc = values.shape
    straight = matrix[0, 2] == 0.0 and matrix[1, 2] == 0.0
    for z in range(begin, end):
        for y in range(out.shape[1]):
            a = matrix[0, 0] * z + matrix[0, 1] * y + matrix[0, 3]
            b = matrix[1, 0] * z + matrix[1, 1] * y + matrix[1, 3]
            c = matrix[2, 0] * z + matrix[2, 1] * y + matrix[2, 3]
            if straight:
                if _outside(a, na) or _outside(b, nb):
                    continue
                row = values[_closest(a, na), _closest(b, nb)]
                for x in range(out.shape[2]):
                    at = c + matrix[2, 2] * x
                    if not _outside(at, nc):
                        out[z, y, x] = row[_closest(at, nc)]
                continue
            for x in range(out.shape[2]):
                pa, pb, pc = a + matrix[0, 2] * x, b + matrix[1, 2] * x, c + matrix[2, 2] * x
                if _outside(pa, na) or _outside(pb, nb) or _outside(pc, nc):
                    continue
                out[z, y, x] = values[_closest(pa, na), _closest(pb, nb), _closest(pc, nc)]


@_compiled
def _below(position, length):  # type: ignore[no-untyped-def]
    """The neighbour below, the one above, and the share of the one above."""
    held = min(max(position, 0.0), length - 1.0)
    low = int(np.floor(held))
    return low, min(low + 1, length - 1), held - low


@_compiled
def _mixed(v, a0, a1, wa, b0, b1, wb, c0, c1, wc):  # type: ignore[no-untyped-def]
    near = (v[a0, b0, c0] * (1 - wc) + v[a0, b0, c1] * wc) * (1 - wb) + (
        v[a0, b1, c0] * (1 - wc) + v[a0, b1, c1] * wc
    ) * wb
    far = (v[a1, b0, c0] * (1 - wc) + v[a1, b0, c1] * wc) * (1 - wb) + (
        v[a1, b1, c0] * (1 - wc) + v[a1, b1, c1] * wc
    ) * wb
    return near * (1 - wa) + far * wa


@_compiled
def linear(values, matrix, out, begin, end):  # type: ignore[no-untyped-def]
    """`out[begin:end]` from trilinear interpolation of `values`, `(a, b, c)` float32."""
    na, nb, nc = values.shape
    for z in range(begin, end):
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                a = matrix[0, 0] * z + matrix[0, 1] * y + matrix[0, 2] * x + matrix[0, 3]
                b = matrix[1, 0] * z + matrix[1, 1] * y + matrix[1, 2] * x + matrix[1, 3]
                c = matrix[2, 0] * z + matrix[2, 1] * y + matrix[2, 2] * x + matrix[2, 3]
                if _outside(a, na) or _outside(b, nb) or _outside(c, nc):
                    continue
                a0, a1, wa = _below(a, na)
                b0, b1, wb = _below(b, nb)
                c0, c1, wc = _below(c, nc)
                out[z, y, x] = _mixed(values, a0, a1, wa, b0, b1, wb, c0, c1, wc)


@_compiled
def best_of(scores, best, begin, end):  # type: ignore[no-untyped-def]
    """`best[begin:end]`: the argmax of `scores`, `(n, a, b, c)`, over its first axis, first of equals."""
    for a in range(begin, end):
        for b in range(best.shape[1]):
            top = scores[0, a, b].copy()
            found = np.zeros(best.shape[2], best.dtype)
            for n in range(1, scores.shape[0]):
                row = scores[n, a, b]
                for c in range(best.shape[2]):
                    if row[c] > top[c]:
                        top[c] = row[c]
                        found[c] = n
            best[a, b] = found


MIXED = 255
"""In `agreed`: the neighbours of this cell have not all the same label."""


@_compiled
def agreed(best, out, begin, end):  # type: ignore[no-untyped-def]
    """`out[begin:end]`: the label that a voxel of `best` and its seven upper neighbours share, or `MIXED`."""
    na, nb, nc = best.shape
    for a in range(begin, end):
        a1 = min(a + 1, na - 1)
        for b in range(nb):
            b1 = min(b + 1, nb - 1)
            for c in range(nc):
                c1 = min(c + 1, nc - 1)
                label = best[a, b, c]
                if (
                    label == best[a, b, c1] and label == best[a, b1, c] and label == best[a, b1, c1]
                    and label == best[a1, b, c] and label == best[a1, b, c1]
                    and label == best[a1, b1, c] and label == best[a1, b1, c1]
                ):  # fmt: skip
                    out[a, b, c] = label
                else:
                    out[a, b, c] = MIXED


@_compiled
def _best_between(scores, a0, a1, wa, b0, b1, wb, c0, c1, wc):  # type: ignore[no-untyped-def]
    top, label = -np.inf, 0
    for n in range(scores.shape[0]):
        score = _mixed(scores[n], a0, a1, wa, b0, b1, wb, c0, c1, wc)
        if score > top:
            top, label = score, n
    return label


@_compiled
def _rows_between(scores, a0, a1, wa, b0, b1, wb, rows):  # type: ignore[no-untyped-def]
    """`rows`, `(n, c)`: the scores of a whole row between four rows of the grid."""
    for n in range(rows.shape[0]):
        for c in range(rows.shape[1]):
            near = scores[n, a0, b0, c] * (1 - wb) + scores[n, a0, b1, c] * wb
            far = scores[n, a1, b0, c] * (1 - wb) + scores[n, a1, b1, c] * wb
            rows[n, c] = near * (1 - wa) + far * wa


@_compiled
def _best_in_row(rows, c0, c1, wc):  # type: ignore[no-untyped-def]
    top, label = np.float32(-np.inf), 0
    for n in range(rows.shape[0]):
        score = rows[n, c0] * (1 - wc) + rows[n, c1] * wc
        if score > top:
            top, label = score, n
    return label


@_compiled
def _linear_best_of_rows(scores, cells, matrix, out, begin, end):  # type: ignore[no-untyped-def]
    """`linear_best` where rows of both grids are parallel: each is interpolated once for all its points."""
    na, nb, nc = cells.shape
    rows = np.empty((scores.shape[0], nc), np.float32)
    below, above = np.zeros(out.shape[2], np.int64), np.zeros(out.shape[2], np.int64)
    share, place = np.zeros(out.shape[2], np.float32), np.nan
    first, last = 0, 0
    for z in range(begin, end):
        for y in range(out.shape[1]):
            a = matrix[0, 0] * z + matrix[0, 1] * y + matrix[0, 3]
            b = matrix[1, 0] * z + matrix[1, 1] * y + matrix[1, 3]
            c = matrix[2, 0] * z + matrix[2, 1] * y + matrix[2, 3]
            if _outside(a, na) or _outside(b, nb):
                continue
            if c != place:  # on most grids every row begins at the same place
                place, first, last = c, out.shape[2], 0
                for x in range(out.shape[2]):
                    pc = c + matrix[2, 2] * x
                    below[x], above[x], weight = _below(pc, nc)
                    share[x] = np.float32(weight)
                    if not _outside(pc, nc):
                        first, last = min(first, x), x + 1
            a0, a1, wa = _below(a, na)
            b0, b1, wb = _below(b, nb)
            labels, has_rows = cells[a0, b0], False
            for x in range(first, last):
                label = labels[below[x]]
                if label == MIXED:
                    if not has_rows:
                        fa, fb = np.float32(wa), np.float32(wb)
                        _rows_between(scores, a0, a1, fa, b0, b1, fb, rows)
                        has_rows = True
                    label = _best_in_row(rows, below[x], above[x], share[x])
                out[z, y, x] = label


@_compiled
def linear_best(scores, cells, matrix, out, begin, end):  # type: ignore[no-untyped-def]
    """`out[begin:end]`: which of `scores`, `(n, a, b, c)`, is largest after trilinear interpolation.

    `cells` is what `agreed` makes of the argmax of `scores`. Where all eight neighbours agree in it, every
    point between them has the same argmax, since interpolation keeps the order of two channels that all
    neighbours agree on; only the other points are interpolated.
    """
    if matrix[0, 2] == 0.0 and matrix[1, 2] == 0.0:
        _linear_best_of_rows(scores, cells, matrix, out, begin, end)
        return
    na, nb, nc = cells.shape
    for z in range(begin, end):
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                a = matrix[0, 0] * z + matrix[0, 1] * y + matrix[0, 2] * x + matrix[0, 3]
                b = matrix[1, 0] * z + matrix[1, 1] * y + matrix[1, 2] * x + matrix[1, 3]
                c = matrix[2, 0] * z + matrix[2, 1] * y + matrix[2, 2] * x + matrix[2, 3]
                if _outside(a, na) or _outside(b, nb) or _outside(c, nc):
                    continue
                a0, a1, wa = _below(a, na)
                b0, b1, wb = _below(b, nb)
                c0, c1, wc = _below(c, nc)
                label = cells[a0, b0, c0]
                if label == MIXED:
                    label = _best_between(scores, a0, a1, wa, b0, b1, wb, c0, c1, wc)
                out[z, y, x] = label


@_compiled
def resample(values, matrix, gain, offset, low, high, out, begin, end):  # type: ignore[no-untyped-def]
    """`out[begin:end]`: `values`, `(z, y, x)`, trilinearly at `matrix @ (a, b, c, 1)`, then scaled.

    Outside the grid its edge goes on. A value becomes `min(max(gain * value + offset, low), high)`.
    """
    nz, ny, nx = values.shape
    for a in range(begin, end):
        for b in range(out.shape[1]):
            z = matrix[0, 0] * a + matrix[0, 1] * b + matrix[0, 3]
            y = matrix[1, 0] * a + matrix[1, 1] * b + matrix[1, 3]
            x = matrix[2, 0] * a + matrix[2, 1] * b + matrix[2, 3]
            for c in range(out.shape[2]):
                z0, z1, wz = _below(z + matrix[0, 2] * c, nz)
                y0, y1, wy = _below(y + matrix[1, 2] * c, ny)
                x0, x1, wx = _below(x + matrix[2, 2] * c, nx)
                value = _mixed(values, z0, z1, wz, y0, y1, wy, x0, x1, wx)
                out[a, b, c] = min(max(gain * value + offset, low), high)
