"""Triton kernels of a decode step: what follows a matrix product is one launch, adapters' expand included.

A step reads every weight once, so on a GPU the launches between the products decide. The factor that a norm has for
a row commutes with the product behind it: `add` leaves sums of squares, and whoever finishes the product applies it.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, import-not-found, no-any-return"
# Triton reads annotations as code.

from typing import NamedTuple

import torch
import triton
import triton.language as tl

_ROWS = tl.constexpr(16)  # the least that a product on tensor cores takes
_TILE = 64
_THIN_TILE = 32


@triton.jit
def _expanded(
    acc,
    shrunk,
    gates,
    expand,
    rows,
    valid,
    cols,
    within,
    stride,
    width,
    RANKS: tl.constexpr,
    STEP: tl.constexpr,
):
    """acc [T, N] + (shrunk [T, R] ⊙ gates [T, R]) · expand [R, N]."""
    for first in range(0, RANKS, STEP):
        ranks = first + tl.arange(0, STEP)
        known = ranks < RANKS
        s = tl.load(shrunk + rows[:, None] * stride + ranks[None, :], mask=valid[:, None] & known[None, :], other=0.0)
        g = tl.load(gates + rows[:, None] * RANKS + ranks[None, :], mask=valid[:, None] & known[None, :], other=0.0)
        b = tl.load(expand + ranks[:, None] * width + cols[None, :], mask=known[:, None] & within[None, :], other=0.0)
        acc = tl.dot((s * g).to(b.dtype), b, acc, input_precision="ieee")
    return acc


@triton.jit
def _factor(squares, rows, valid, count, width, eps, TILES: tl.constexpr, SLOTS: tl.constexpr):
    """1 ÷ root mean square [T] of rows whose squares are summed tile by tile."""
    tiles = tl.arange(0, SLOTS)
    sums = tl.load(
        squares + tiles[:, None] * count + rows[None, :], mask=(tiles[:, None] < TILES) & valid[None, :], other=0.0
    )
    return tl.rsqrt(tl.sum(sums, 0) / width + eps)


@triton.jit
def _heads_kernel(
    both,
    squares,
    gates,
    expand_q,
    expand_k,
    expand_v,
    norms,
    turns,
    lengths,
    queries,
    keys,
    values,
    count,
    stride,
    row_stride,
    head_stride,
    width,
    eps,
    TILES: tl.constexpr,
    SLOTS: tl.constexpr,
    HEADS: tl.constexpr,
    KV: tl.constexpr,
    D: tl.constexpr,
    RANKS: tl.constexpr,
    STEP: tl.constexpr,
):
    head = tl.program_id(0)
    rows = tl.program_id(1) * _ROWS + tl.arange(0, _ROWS)
    valid = rows < count
    inner = tl.arange(0, D)
    every = inner >= 0
    factor = _factor(squares, rows, valid, count, width, eps, TILES, SLOTS)
    x = tl.load(both + rows[:, None] * stride + head * D + inner[None, :], mask=valid[:, None], other=0.0)
    acc = x.to(tl.float32)
    if RANKS > 0:
        shrunk = both + (HEADS + 2 * KV) * D
        if head < HEADS:
            acc = _expanded(
                acc, shrunk, gates, expand_q, rows, valid, head * D + inner, every, stride, HEADS * D, RANKS, STEP
            )
        elif head < HEADS + KV:
            at = (head - HEADS) * D + inner
            acc = _expanded(acc, shrunk + RANKS, gates, expand_k, rows, valid, at, every, stride, KV * D, RANKS, STEP)
        else:
            at = (head - HEADS - KV) * D + inner
            acc = _expanded(
                acc, shrunk + 2 * RANKS, gates, expand_v, rows, valid, at, every, stride, KV * D, RANKS, STEP
            )
    acc *= factor[:, None]
    if head < HEADS + KV:
        weight = tl.load(norms + head * D + inner).to(tl.float32)
        acc = acc * tl.rsqrt(tl.sum(acc * acc, 1) / D + eps)[:, None] * weight[None, :]
        real, imaginary = tl.split(tl.reshape(acc, (_ROWS, D // 2, 2)))
        pair = tl.arange(0, D // 2)
        angle = turns + rows[:, None] * D + 2 * pair[None, :]
        cos = tl.load(angle, mask=valid[:, None], other=0.0)
        sin = tl.load(angle + 1, mask=valid[:, None], other=0.0)
        acc = tl.reshape(tl.join(real * cos - imaginary * sin, real * sin + imaginary * cos), (_ROWS, D))
    out = acc.to(x.dtype)
    if head < HEADS:
        tl.store(queries + (rows[:, None] * HEADS + head) * D + inner[None, :], out, mask=valid[:, None])
    else:
        length = tl.load(lengths + rows, mask=valid, other=0)
        kv = head - HEADS
        if head >= HEADS + KV:
            kv = head - HEADS - KV
        at = rows[:, None] * row_stride + kv * head_stride + length[:, None] * D + inner[None, :]
        if head < HEADS + KV:
            tl.store(keys + at, out, mask=valid[:, None])
        else:
            tl.store(values + at, out, mask=valid[:, None])


@triton.jit
def _attention_kernel(
    queries,
    keys,
    values,
    lengths,
    out,
    parts,
    peaks,
    sums,
    row_stride,
    head_stride,
    scale,
    KV: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
    SPLITS: tl.constexpr,
):
    row, kv, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    group = tl.arange(0, _ROWS)
    inner = tl.arange(0, D)
    mine = group < GROUP
    head = (row * KV + kv) * GROUP + group
    q = tl.load(queries + head[:, None] * D + inner[None, :], mask=mine[:, None], other=0.0)
    total = tl.load(lengths + row) + 1
    each = tl.cdiv(tl.cdiv(total, SPLITS), BLOCK) * BLOCK
    first = split * each
    last = tl.minimum(first + each, total)
    base = row * row_stride + kv * head_stride
    peak = tl.full((_ROWS,), -1e30, tl.float32)
    weight = tl.zeros((_ROWS,), tl.float32)
    acc = tl.zeros((_ROWS, D), tl.float32)
    for start in range(first, last, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < last
        where = base + at[:, None] * D + inner[None, :]
        k = tl.load(keys + where, mask=inside[:, None], other=0.0)
        v = tl.load(values + where, mask=inside[:, None], other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where(inside[None, :], scores, -1e30)
        higher = tl.maximum(peak, tl.max(scores, 1))
        p = tl.where(inside[None, :], tl.exp(scores - higher[:, None]), 0.0)
        shrink = tl.exp(peak - higher)
        acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None], input_precision="ieee")
        weight = weight * shrink + tl.sum(p, 1)
        peak = higher
    if SPLITS == 1:
        done = acc / weight[:, None]
        tl.store(out + head[:, None] * D + inner[None, :], done.to(q.dtype), mask=mine[:, None])
    else:
        slot = head * SPLITS + split
        tl.store(parts + slot[:, None] * D + inner[None, :], acc, mask=mine[:, None])
        tl.store(peaks + slot, peak, mask=mine)
        tl.store(sums + slot, weight, mask=mine)


@triton.jit
def _join_kernel(parts, peaks, sums, out, D: tl.constexpr, SPLITS: tl.constexpr):
    head = tl.program_id(0)
    inner = tl.arange(0, D)
    slots = head * SPLITS + tl.arange(0, SPLITS)
    peak = tl.load(peaks + slots)
    scale = tl.exp(peak - tl.max(peak, 0))
    acc = tl.load(parts + slots[:, None] * D + inner[None, :])
    done = tl.sum(acc * scale[:, None], 0) / tl.sum(tl.load(sums + slots) * scale, 0)
    tl.store(out + head * D + inner, done.to(out.dtype.element_ty))


@triton.jit
def _gated_kernel(
    both,
    squares,
    gates,
    expand_gate,
    expand_up,
    out,
    count,
    stride,
    width,
    hidden,
    eps,
    TILES: tl.constexpr,
    SLOTS: tl.constexpr,
    RANKS: tl.constexpr,
    STEP: tl.constexpr,
    N: tl.constexpr,
):
    cols = tl.program_id(0) * N + tl.arange(0, N)
    rows = tl.program_id(1) * _ROWS + tl.arange(0, _ROWS)
    valid, within = rows < count, cols < width
    mask = valid[:, None] & within[None, :]
    factor = _factor(squares, rows, valid, count, hidden, eps, TILES, SLOTS)
    at = both + rows[:, None] * stride + cols[None, :]
    x = tl.load(at, mask=mask, other=0.0)
    gate = x.to(tl.float32)
    up = tl.load(at + width, mask=mask, other=0.0).to(tl.float32)
    if RANKS > 0:
        shrunk = both + 2 * width
        gate = _expanded(gate, shrunk, gates, expand_gate, rows, valid, cols, within, stride, width, RANKS, STEP)
        up = _expanded(up, shrunk + RANKS, gates, expand_up, rows, valid, cols, within, stride, width, RANKS, STEP)
    gate *= factor[:, None]
    done = gate * tl.sigmoid(gate) * up * factor[:, None]
    tl.store(out + rows[:, None] * width + cols[None, :], done.to(x.dtype), mask=mask)


@triton.jit
def _add_kernel(
    both,
    gates,
    expand,
    states,
    weight,
    scaled,
    squares,
    count,
    stride,
    width,
    ADD: tl.constexpr,
    RANKS: tl.constexpr,
    STEP: tl.constexpr,
    N: tl.constexpr,
):
    tile = tl.program_id(0)
    cols = tile * N + tl.arange(0, N)
    rows = tl.program_id(1) * _ROWS + tl.arange(0, _ROWS)
    valid, within = rows < count, cols < width
    mask = valid[:, None] & within[None, :]
    at = rows[:, None] * width + cols[None, :]
    old = tl.load(states + at, mask=mask, other=0.0)
    h = old.to(tl.float32)
    if ADD:
        y = tl.load(both + rows[:, None] * stride + cols[None, :], mask=mask, other=0.0).to(tl.float32)
        if RANKS > 0:
            y = _expanded(y, both + width, gates, expand, rows, valid, cols, within, stride, width, RANKS, STEP)
        h = (h + y).to(old.dtype).to(tl.float32)
        tl.store(states + at, h.to(old.dtype), mask=mask)
    w = tl.load(weight + cols, mask=within, other=0.0).to(tl.float32)
    tl.store(scaled + at, (h * w[None, :]).to(old.dtype), mask=mask)
    tl.store(squares + tile * count + rows, tl.sum(h * h, 1), mask=valid)


class Normed(NamedTuple):
    """States times a norm's weights, and their squares: [T, hidden] and float32 [tiles, T]. A factor is due still."""

    scaled: torch.Tensor
    squares: torch.Tensor
    eps: float

    @property
    def sizes(self) -> dict[str, int]:
        """What kernels that apply the factor are compiled for."""
        tiles = len(self.squares)
        return {"TILES": tiles, "SLOTS": triton.next_power_of_2(tiles)}


def finish_heads(
    both: torch.Tensor,
    normed: Normed,
    gates: torch.Tensor,
    expand: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    norms: torch.Tensor,
    turns: torch.Tensor,
    lengths: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
) -> torch.Tensor:
    """Queries [T, heads, d] after expand, norms and rotation; keys and values go to their place in the arena.

    `both` [T, out + 3 · ranks], `gates` [T, ranks] (no ranks: the base alone), `norms` [heads + kv_heads, d], `turns`
    float32 [T, d/2, 2], keys and values [rows, kv_heads, length, d].
    """
    count, (_, kv, _, d) = len(both), keys.shape
    heads = len(norms) - kv
    queries = both.new_empty(count, heads, d)
    _heads_kernel[(heads + 2 * kv, _blocks(count))](
        *(both, normed.squares, gates, *expand, norms, turns, lengths, queries, keys, values, count),
        *(both.stride(0), keys.stride(0), keys.stride(1), normed.scaled.shape[1], normed.eps),
        HEADS=heads,
        KV=kv,
        D=d,
        **normed.sizes,
        **_sizes(gates),
    )
    return queries


def attend(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, lengths: torch.Tensor, splits: int
) -> torch.Tensor:
    """Attention [T, heads · d] of one token of each row, `lengths` [T] tokens after its row's first.

    Each row's keys are shared out among `splits` (a power of two), so that few long rows occupy the whole device.
    """
    (count, heads, d), kv = queries.shape, keys.shape[1]
    out = torch.empty_like(queries)
    short = keys.shape[2] <= 512 or queries.dtype == torch.float32  # measured; and what fits in shared memory
    sizes = [heads * count * splits] if splits > 1 else [0]
    parts = torch.empty(sizes[0], d, dtype=torch.float32, device=queries.device)
    peaks, sums = torch.empty(2, sizes[0], dtype=torch.float32, device=queries.device)
    _attention_kernel[(count, kv, splits)](
        *(queries, keys, values, lengths, out, parts, peaks, sums),
        *(keys.stride(0), keys.stride(1), d**-0.5),
        KV=kv,
        GROUP=heads // kv,
        D=d,
        BLOCK=32 if short else 128,
        SPLITS=splits,
        num_stages=3,
        num_warps=4 if short else 8,
    )
    if splits > 1:
        _join_kernel[(count * heads,)](parts, peaks, sums, out, D=d, SPLITS=splits)
    return out.flatten(1)


def finish_gated(
    both: torch.Tensor, normed: Normed, gates: torch.Tensor, expand: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    """silu(gate) · up [T, intermediate] after expand and norm; `both` [T, 2 · intermediate + 2 · ranks]."""
    count, ranks = len(both), gates.shape[1]
    width = both.shape[1] // 2 - ranks
    out = both.new_empty(count, width)
    _gated_kernel[(triton.cdiv(width, _TILE), _blocks(count))](
        *(both, normed.squares, gates, *expand, out, count, both.stride(0), width),
        *(normed.scaled.shape[1], normed.eps),
        N=_TILE,
        **normed.sizes,
        **_sizes(gates),
    )
    return out


def add(
    states: torch.Tensor,
    both: torch.Tensor | None,
    gates: torch.Tensor,
    expand: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
) -> Normed:
    """states [T, hidden] += y + expand, and their norm; `both` [T, hidden + ranks] is y and the shrink, or nothing."""
    count, width = states.shape
    tiles = triton.cdiv(width, _THIN_TILE)
    normed = Normed(torch.empty_like(states), states.new_empty(tiles, count, dtype=torch.float32), eps)
    _add_kernel[(tiles, _blocks(count))](
        *(states if both is None else both, gates, expand, states, weight, *normed[:2], count),
        *(0 if both is None else both.stride(0), width),
        ADD=both is not None,
        N=_THIN_TILE,
        **_sizes(gates),
    )
    return normed


def _blocks(count: int) -> int:
    return int(triton.cdiv(count, 16))


def _sizes(gates: torch.Tensor) -> dict[str, int]:
    ranks = gates.shape[1]
    most = 128 if gates.element_size() == 2 else 32  # what fits in shared memory
    step = next(step for step in (128, 64, 32, 16) if step <= most and (ranks >= step or step == 16))
    return {"RANKS": ranks, "STEP": step}
