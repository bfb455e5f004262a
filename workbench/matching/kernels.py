"""What has to run once for each of billions of numbers? The inner loops of the matching, compiled when they are first used.

1. `keep_rows`, `keep_cols`: the k largest cosines of every row and of every column of a tile, kept in heaps whose root, the smallest,
   is the threshold a cosine has to pass; runs of 32 cosines of which none passes are skipped together. `hash_rows` tells equal rows.
2. `pair_cosines`: cosines of listed pairs in float64. `near_pairs`: the pairs of a tile that come near their two prices' sum.
3. `bid` and `augment`: the two halves of the sparse assignment solver in whole numbers; `workbench.matching.prices` explains them.

numba compiles them on first use and keeps the machine code on disk; they hold no lock, so threads can share a tile. They are plain
Python functions here, so that importing this module imports nothing.

Source: Williams 1964 (heap); Fowler, Noll & Vo 1991 (hash); Bertsekas 1988 (bidding); Jonker & Volgenant 1987 (shortest augmenting paths).
"""

from __future__ import annotations

import functools
from types import SimpleNamespace

import numpy as np

from workbench.activations.compiling import compiled

NEVER = 1 << 62  # a path length beyond all others
FREE = -1


@functools.cache
def kernels() -> SimpleNamespace:
    """The compiled kernels by name; the first call of each with a new type of array compiles it, or reads it from disk."""
    # sums may be reordered (vector instructions); no kernel sees NaN or infinity
    return compiled((keep_rows, keep_cols, hash_rows, pair_cosines, near_pairs, greedy, bid, augment), fastmath=True)


def keep_rows(tile, width, first, last, row0, col0, values, indices):
    """Offer rows first:last of `tile` to the heaps `values, indices (m, k)`; the tile's corner is (row0, col0).

    tile : (h, whole runs) float32 of which `width` columns count; the rest is smaller than any cosine
    """
    k, runs = values.shape[1], (width + 31) // 32
    floor = np.empty(32 * runs, np.float32)
    for r in range(first, last):
        i, row = row0 + r, tile[r]
        least = values[i, 0]
        floor[:] = least
        shift = (i * 2654435761) % runs  # rows start at different columns, so that equal cosines do not all choose the first ones
        for run in range(runs):
            begin = ((run + shift) % runs) * 32
            above = np.int32(0)
            for c in range(32):  # a fixed number and a sum: the compiler makes vector instructions of it
                above += np.int32(row[begin + c] > floor[begin + c])
            if above == 0:
                continue
            for c in range(begin, min(begin + 32, width)):
                x = row[c]
                if x > least:
                    at = 0
                    while True:
                        child = 2 * at + 1
                        if child >= k:
                            break
                        if child + 1 < k and values[i, child + 1] < values[i, child]:
                            child += 1
                        if values[i, child] >= x:
                            break
                        values[i, at] = values[i, child]
                        indices[i, at] = indices[i, child]
                        at = child
                    values[i, at] = x
                    indices[i, at] = col0 + c
                    least = values[i, 0]


def keep_cols(tile, width, first, last, row0, col0, height, values, indices, least):
    """Offer columns first:last of `tile` to the heaps `values, indices (n, k)`; `least` (n and a run more) are the heaps' roots."""
    k = values.shape[1]
    for group in range(first, last, 128):
        shift = ((col0 + group) // 128 * 2654435761) % height
        for step in range(height):
            r = (step + shift) % height
            row = tile[r]
            for begin in range(group, min(group + 128, last), 32):
                above = np.int32(0)
                for c in range(32):
                    above += np.int32(row[begin + c] > least[col0 + begin + c])
                if above == 0:
                    continue
                for c in range(begin, min(begin + 32, width)):
                    j = col0 + c
                    x = row[c]
                    if x > least[j]:
                        at = 0
                        while True:
                            child = 2 * at + 1
                            if child >= k:
                                break
                            if child + 1 < k and values[j, child + 1] < values[j, child]:
                                child += 1
                            if values[j, child] >= x:
                                break
                            values[j, at] = values[j, child]
                            indices[j, at] = indices[j, child]
                            at = child
                        values[j, at] = x
                        indices[j, at] = row0 + r
                        least[j] = values[j, 0]


def hash_rows(words, minus_zero, out):
    """A 64-bit hash of every row's numbers, given as unsigned words; -0.0 counts as 0.0."""
    for i in range(len(words)):
        mixed = np.uint64(14695981039346656037)
        for k in range(words.shape[1]):
            word = np.uint64(words[i, k])
            if word == minus_zero:
                word = np.uint64(0)
            mixed = (mixed ^ word) * np.uint64(1099511628211)
            mixed ^= mixed >> np.uint64(29)
        out[i] = mixed


def pair_cosines(a, b, norm_a, norm_b, rows, cols, first, last, out):
    """out[first:last] = cosines of the listed rows of a and b, in float64 whatever their type."""
    width = a.shape[1]
    for e in range(first, last):
        i, j = rows[e], cols[e]
        total = 0.0
        for k in range(width):
            total += np.float64(a[i, k]) * np.float64(b[j, k])
        out[e] = total / (norm_a[i] * norm_b[j])


def near_pairs(tile, width, first, last, row_floor, col_price, out_rows, out_cols):
    """List the pairs of rows first:last with tile > row_floor + col_price; returns their number, listed only as far as there is room."""
    found, room = 0, len(out_rows)
    floor = np.empty(len(col_price), np.float32)
    for r in range(first, last):
        row = tile[r]
        for c in range(len(col_price)):
            floor[c] = row_floor[r] + col_price[c]
        for begin in range(0, width, 32):
            above = np.int32(0)
            for c in range(32):
                above += np.int32(row[begin + c] > floor[begin + c])
            if above == 0:
                continue
            for c in range(begin, min(begin + 32, width)):
                if row[c] > floor[c]:
                    if found < room:
                        out_rows[found] = r
                        out_cols[found] = c
                    found += 1
    return found


def greedy(rows, cols, order, row_mate, col_mate):
    """Match pairs in the given order wherever both ends are still free; returns how many."""
    matched = 0
    for e in order:
        i, j = rows[e], cols[e]
        if row_mate[i] == FREE and col_mate[j] == FREE:
            row_mate[i], col_mate[j] = j, i
            matched += 1
    return matched


def bid(indptr, indices, values, price_x, price_y, mate_x, mate_y, stack, top, deferred, n_deferred, work):
    """Let the x on the stack bid for their best y until the stack is empty or `work` edges were read; returns (top, n_deferred)."""
    while top > 0 and work > 0:
        x = stack[top - 1]
        top -= 1
        best = second = -NEVER
        y = -1
        for e in range(indptr[x], indptr[x + 1]):
            worth = values[e] - price_y[indices[e]]
            if worth > best:
                second, best, y = best, worth, indices[e]
            elif worth > second:
                second = worth
                # a free y of equal worth is taken without contest
            if worth == best and mate_y[y] != FREE and mate_y[indices[e]] == FREE:
                y = indices[e]
        work -= indptr[x + 1] - indptr[x]
        if mate_y[y] != FREE and (best == second or second == -NEVER):
            price_x[x] = best
            deferred[n_deferred] = x  # a bid could not raise the price: left to augment
            n_deferred += 1
            continue
        if second == -NEVER:
            second = best
        price_x[x] = second
        price_y[y] += best - second
        loser = mate_y[y]
        if loser != FREE:
            mate_x[loser] = FREE
            stack[top] = loser
            top += 1
        mate_x[x], mate_y[y] = y, x
    return top, n_deferred


def augment(indptr, indices, values, price_x, price_y, mate_x, mate_y, roots, start, leave, work, dist, pred, place, heap, touched, done):
    """Match the free x in roots[start:] along shortest augmenting paths until `work` edges were read; returns how far it came, or -1.

    dist, pred, place, heap, touched, done : (number of y,) scratch; dist all NEVER and place all -1, and so they are returned.
    """
    for q in range(start, len(roots)):
        root = roots[q]
        if mate_x[root] != FREE or (leave and price_x[root] == 0):
            continue
        n_touched = n_done = size = 0
        shortest = NEVER
        end_x = end_y = -1
        x, base = root, 0
        while True:
            if leave and base + price_x[x] < shortest:
                shortest, end_x, end_y = base + price_x[x], x, -1
            for e in range(indptr[x], indptr[x + 1]):
                y = indices[e]
                length = base + price_x[x] + price_y[y] - values[e]
                if length >= shortest or length >= dist[y]:
                    continue
                if dist[y] == NEVER:
                    touched[n_touched] = y
                    n_touched += 1
                dist[y] = length
                pred[y] = x
                if mate_y[y] == FREE:
                    shortest, end_x, end_y = length, -1, y
                    continue
                at = place[y]
                if at < 0:
                    at = size
                    size += 1
                while at > 0:
                    parent = (at - 1) >> 1
                    other = heap[parent]
                    if dist[other] <= length:
                        break
                    heap[at] = other
                    place[other] = at
                    at = parent
                heap[at] = y
                place[y] = at
            work -= indptr[x + 1] - indptr[x]
            if size == 0 or dist[heap[0]] >= shortest:
                break
            y = heap[0]
            size -= 1
            if size > 0:
                last = heap[size]
                key = dist[last]
                at = 0
                while True:
                    child = 2 * at + 1
                    if child >= size:
                        break
                    if child + 1 < size and dist[heap[child + 1]] < dist[heap[child]]:
                        child += 1
                    if dist[heap[child]] >= key:
                        break
                    heap[at] = heap[child]
                    place[heap[at]] = at
                    at = child
                heap[at] = last
                place[last] = at
            done[n_done] = y
            n_done += 1
            x, base = mate_y[y], dist[y]
        if shortest == NEVER:
            return -1
        price_x[root] -= shortest
        for k in range(n_done):
            y = done[k]
            price_y[y] += shortest - dist[y]
            price_x[mate_y[y]] -= shortest - dist[y]
        if end_y >= 0:
            y = end_y
            while True:
                x = pred[y]
                following = mate_x[x]
                mate_x[x], mate_y[y] = y, x
                if x == root:
                    break
                y = following
        elif end_x != root:
            y = mate_x[end_x]
            mate_x[end_x] = FREE
            while True:
                x = pred[y]
                following = mate_x[x]
                mate_x[x], mate_y[y] = y, x
                if x == root:
                    break
                y = following
        for k in range(n_touched):
            dist[touched[k]] = NEVER
            place[touched[k]] = -1
        if work <= 0:
            return q + 1
    return len(roots)
