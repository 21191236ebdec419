#!/usr/bin/env python3
"""Writes tests/golden/compress.safetensors: small matrices, compressed by a computation of its own.

usage: tools/make_golden_compress.py OUTPUT

Plain numpy in double precision, from the papers (and, for "released", from what the authors' code
computes): a matrix w[rows][cols] with a Hessian h, and for each method what it makes of w before
numbers are rounded for storing. Developers only; needs numpy and safetensors.
"""
import sys

import numpy as np
from safetensors.numpy import save_file

ROWS, COLS, BLOCK, SALIENT, SEED = 10, 150, 128, 50, 20
SHARE = 0.01


def problem():
    """Weights with some large columns, and inputs that are correlated."""
    rng = np.random.default_rng(SEED)
    w = rng.normal(size=(ROWS, COLS)) * 0.05
    w[:, rng.integers(0, COLS, 12)] *= 4
    mix = rng.normal(size=(COLS, COLS)) * 0.15 + np.eye(COLS)
    x = rng.normal(size=(600, COLS)) @ mix
    x[:, 7] = 0
    return w.astype(np.float32).astype(float), 2 * x.T @ x / len(x)


def inverse_factor(h):
    """Upper U with (h, damped)^-1 = U^T U, by the inverse itself."""
    h = h.copy()
    mean = np.mean(np.diag(h))
    dead = np.diag(h) == 0
    h[dead, dead] = 1
    h += SHARE * mean * np.eye(len(h))
    return h, np.linalg.cholesky(np.linalg.inv(h)).T


def sign(x):
    return np.where(x >= 0, 1.0, -1.0)


def one_sign(w, mask, means=True):
    """Row-wise mean + scale * sign over the masked weights; zeros elsewhere."""
    n = np.maximum(mask.sum(1, keepdims=True), 1)
    mean = (w * mask).sum(1, keepdims=True) / n * means
    rest = w - mean
    scale = (np.abs(rest) * mask).sum(1, keepdims=True) / n
    return (mean + scale * sign(rest)) * mask


def two_signs(w, mask):
    first = one_sign(w, mask)
    return first + one_sign(w - first, mask)


def part(w, d, released):
    """Masks of inner, outer and salient weights of a block."""
    salience = w**2 / d**2
    look = salience if released else w
    n = w.shape[1]
    order = np.argsort(-salience.sum(0), kind="stable")
    best = None
    for k in range(1, min(SALIENT, n)):
        salient = np.zeros(w.shape, bool)
        salient[:, order[:k]] = True
        error = np.sum((look - two_signs(look, salient) - two_signs(look, ~salient)) ** 2)
        if best is None or error < best[0]:
            best = error, salient
    salient = best[1]
    values = np.abs(look * ~salient)
    steps = 0.10 + 0.01 * np.arange(81)
    breaks = np.quantile(values, steps) if released else steps * values.max()
    best = None
    for at in breaks:
        outer = (values >= at if released else values > at) & ~salient
        inner = ~outer & ~salient
        error = np.sum(((look - one_sign(look, inner) - one_sign(look, outer)) * ~salient) ** 2)
        if best is None or error < best[0]:
            best = error, inner, outer
    return best[1], best[2], salient


def levels_of(w, masks, fit):
    """The values that a row's weights may take in each group: lists of arrays [rows][1]."""
    inner, outer, salient = masks

    def single(mask):
        n = np.maximum(mask.sum(1, keepdims=True), 1)
        mean = (w * mask).sum(1, keepdims=True) / n
        return mean, (np.abs(w - mean) * mask).sum(1, keepdims=True) / n

    def double(mask):
        mean, one = single(mask)
        rest = w - mean - one * sign(w - mean)
        n = np.maximum(mask.sum(1, keepdims=True), 1)
        second = (rest * mask).sum(1, keepdims=True) / n
        return mean + second, one, (np.abs(rest - second) * mask).sum(1, keepdims=True) / n

    (mi, si), (mo, so), (ms, s1, s2) = single(inner), single(outer), double(salient)
    if fit == "arb":
        mi, si = refine(w, inner, mi, si)
        mo, so = refine(w, outer, mo, so)
        ms, s1, s2 = refine_two(w, salient, ms, s1, s2)
    return [[mi - si, mi + si], [mo - so, mo + so],
            [ms - s1 - s2, ms + s1 - s2, ms - s1 + s2, ms + s1 + s2]]


def refine(w, mask, mean, scale, rounds=15):
    """ARB-LLM, algorithm 1, on the masked weights."""
    n = np.maximum(mask.sum(1, keepdims=True), 1)
    b = sign(w - mean)
    for _ in range(rounds):
        mean = mean + ((w - mean - scale * b) * mask).sum(1, keepdims=True) / n
        scale = ((w - mean) * b * mask).sum(1, keepdims=True) / n
        b = sign(w - mean)
    return mean, scale


def nearest_two(w, one, two):
    """The signs whose sum is nearest; in a tie, the first of (-,-), (+,-), (-,+), (+,+)."""
    pairs = [(-1.0, -1.0), (1.0, -1.0), (-1.0, 1.0), (1.0, 1.0)]
    distance = np.stack([np.abs(w - a * one - b * two) for a, b in pairs])
    best = distance.argmin(0)
    return (np.choose(best, [a for a, _ in pairs]), np.choose(best, [b for _, b in pairs]))


def refine_two(w, mask, mean, one, two, rounds=15):
    n = np.maximum(mask.sum(1, keepdims=True), 1)
    a, b = nearest_two(w - mean, one, two)
    for _ in range(rounds):
        mean = mean + ((w - mean - one * a - two * b) * mask).sum(1, keepdims=True) / n
        one = ((w - mean - two * b) * a * mask).sum(1, keepdims=True) / n
        two = ((w - mean - one * a) * b * mask).sum(1, keepdims=True) / n
        a, b = nearest_two(w - mean, one, two)
    return mean, one, two


def rounded(w, choices):
    """The nearest of choices, each [rows][1] or [rows][n]; in a tie the first."""
    values = np.stack([np.broadcast_to(c, w.shape) for c in choices])
    return np.take_along_axis(values, np.abs(values - w).argmin(0)[None], 0)[0]


def by_blocks(w, u, one_block):
    """GPTQ's loop: one_block(w, u of the block) gives what is stored and the errors over the
    diagonal, which are made good in later blocks."""
    w = w.copy()
    for first in range(0, w.shape[1], BLOCK):
        end = min(first + BLOCK, w.shape[1])
        w[:, first:end], errors = one_block(w[:, first:end].copy(), u[first:end, first:end])
        w[:, end:] -= errors @ u[first:end, end:]
    return w


def column_by_column(w, u, choices_of):
    errors = np.zeros_like(w)
    out = np.zeros_like(w)
    for c in range(w.shape[1]):
        out[:, c : c + 1] = rounded(w[:, c : c + 1], choices_of(c))
        errors[:, c] = (w[:, c] - out[:, c]) / u[c, c]
        w[:, c + 1 :] -= errors[:, c : c + 1] * u[c, c + 1 :]
    return out, errors


def gptq1(w, u):
    def block(w, u):
        scale = np.abs(w).mean(1, keepdims=True)
        return column_by_column(w, u, lambda c: [-scale, scale])

    return by_blocks(w, u, block)


def rtn(w):
    out = np.zeros_like(w)
    for first in range(0, w.shape[1], BLOCK):
        b = w[:, first : first + BLOCK]
        out[:, first : first + BLOCK] = np.abs(b).mean(1, keepdims=True) * sign(b)
    return out


def billm(w, u, released, fit="billm"):
    def block(w, u):
        masks = part(w, np.diag(u), released)
        if released:
            inner, outer, salient = masks
            out = one_sign(w, inner) + one_sign(w, outer) + two_signs(w, salient)
            return out, (w - out) / np.diag(u)
        levels = levels_of(w, masks, fit)

        def choices_of(c):
            if masks[2][0, c]:
                return levels[2]
            return levels[0] + levels[1]

        return column_by_column(w, u, choices_of)

    return by_blocks(w, u, block)


def arb_rc(w, u):
    """ARB-LLM, algorithm 3: scales of rows and columns, no means."""

    def block(w, u):
        inner, outer, salient = part(w, np.diag(u), False)
        n = w.shape[1]

        def mean_of(mask):
            m = np.maximum(mask.sum(1, keepdims=True), 1)
            mean = (w * mask).sum(1, keepdims=True) / m
            return (np.abs(w - mean) * mask).sum(1, keepdims=True) / m

        ai, ao = mean_of(inner), mean_of(outer)
        rest = levels_of(w, (inner, outer, salient), "billm")[2]
        one, two = (rest[1] - rest[0]) / 2, (rest[2] - rest[0]) / 2
        b = sign(w)
        sa, sb = nearest_two(w, one, two)
        columns = np.ones((1, n))
        for _ in range(15):
            value = ai * b * inner + ao * b * outer + (one * sa + two * sb) * salient
            columns = (w * value).sum(0, keepdims=True) / (value**2).sum(0, keepdims=True)
            columns = columns.astype(np.float16).astype(float)
            columns = np.where((columns > 2.0**-14) & (columns < 32768), columns, 1.0)

            def best(mask, target, signs):
                top = (target * columns * signs * mask).sum(1, keepdims=True)
                bottom = (columns**2 * mask).sum(1, keepdims=True)
                return np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1), 0)

            ai, ao = best(inner, w, b), best(outer, w, b)
            one = best(salient, w - columns * two * sb, sa)
            two = best(salient, w - columns * one * sa, sb)
            sa, sb = nearest_two(w / columns, one, two)

        def choices_of(c):
            k = columns[0, c]
            if salient[0, c]:
                return [k * (-one - two), k * (one - two), k * (two - one), k * (one + two)]
            return [-ai * k, ai * k, -ao * k, ao * k]

        return column_by_column(w, u, choices_of)

    return by_blocks(w, u, block)


def main():
    w, h = problem()
    damped, u = inverse_factor(h)
    out = {
        "weights": w,
        "hessian": h,
        "rtn": rtn(w),
        "gptq1": gptq1(w, u),
        "billm": billm(w, u, False),
        "billm.released": billm(w, u, True),
        "arb": billm(w, u, False, "arb"),
        "arb-rc": arb_rc(w, u),
    }
    for name in list(out)[2:]:
        rest = w - out[name]
        error = np.sum(rest @ damped * rest) / np.sum(w @ damped * w)
        out["error." + name] = np.array([error])
        print(f"{name:16} {error:.4f}")
    save_file({k: np.ascontiguousarray(v, dtype=np.float32) for k, v in out.items()}, sys.argv[1])


if __name__ == "__main__":
    main()
