"""GRU and LSTM for book-keeping: forward and backward over time by hand, one layer and direction at a time.

torch's own recurrent layers do not say what went into each step, and without a fused kernel autograd spends most of
its time between the steps. By hand the same arithmetic is faster, and the gates' gradients at all times
are at hand: ``W_ih`` multiplies the inputs, ``W_hh`` the states before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pmfed.privacy.engine.backward import Page, apply
from pmfed.privacy.engine.layers import note_matrix


class _Cell(torch.autograd.Function):
    """One layer in one direction: x (N, T, in), h (N, H) and c (N, H) -> y (N, T, H) and the last c.

    Four gates make an LSTM, three a GRU, which has no c.
    """

    @staticmethod
    def forward(
        ctx: Any, page: Page, _: Tensor, x: Tensor, h: Tensor, c: Tensor | None, weights: tuple[Any, ...], back: bool
    ) -> tuple[Tensor, Tensor]:
        w_ih, w_hh, b_ih, b_hh = weights
        sequence = x.transpose(0, 1)
        gates = functional.linear(sequence, w_ih, b_ih)  # (T, N, gates * H)
        order = range(len(sequence) - 1, -1, -1) if back else range(len(sequence))
        if c is None:
            states, kept, last = _gru(gates, h, w_hh, b_hh, order)
        else:
            states, kept, last = _lstm(gates, h, c, w_hh, b_hh, order)
        ctx.save_for_backward(x, w_ih, w_hh, states, h, *kept)
        ctx.page, ctx.order, ctx.lstm = page, order, c is not None
        ctx.wanted = tuple(page.find(w) for w in weights)
        return states.transpose(0, 1).clone(memory_format=torch.contiguous_format), last

    @staticmethod
    def backward(ctx: Any, gy: Tensor, g_last: Tensor) -> Any:
        x, w_ih, w_hh, states, h0, *kept = ctx.saved_tensors
        page, order = ctx.page, ctx.order
        first = order[0]
        before = torch.empty_like(states)  # the state each step started from
        if order.step == 1:
            before[1:] = states[:-1]
        else:
            before[:-1] = states[1:]
        before[first] = h0
        slopes = gy.transpose(0, 1)
        if ctx.lstm:
            d_in, dh, dc = _lstm_back(slopes, g_last, kept, w_hh, order)
            d_hidden = d_in
        else:
            d_in, d_hidden, dh = _gru_back(slopes, before, kept, w_hh, order)
            dc = None
        w, u, b, v = ctx.wanted

        def rows(tensor: Tensor) -> Tensor:  # (T, N, d) -> (R, positions, d)
            return tensor.transpose(0, 1).reshape(page.records, -1, tensor.shape[-1])

        d_rows = rows(d_in)
        hidden_rows = d_rows if d_hidden is d_in else rows(d_hidden)
        note_matrix(page, w, x.reshape(page.records, -1, x.shape[-1]), d_rows)
        note_matrix(page, u, rows(before), hidden_rows)
        page.dense(b, lambda: d_rows.sum(1))
        page.dense(v, lambda: hidden_rows.sum(1))
        dx = (d_in @ w_ih).transpose(0, 1) if ctx.needs_input_grad[2] else None
        return None, None, dx, dh, dc, None, None


def _gru(gates: Tensor, h: Tensor, w_hh: Tensor, b_hh: Tensor | None, order: range) -> Any:
    steps, n, width = gates.shape
    size = width // 3
    states = gates.new_empty(steps, n, size)
    hidden = gates.new_empty(steps, n, size)  # what the reset gate multiplies
    for t in order:
        u = functional.linear(h, w_hh, b_hh)
        gate = gates[t]
        gate[:, : 2 * size].add_(u[:, : 2 * size]).sigmoid_()
        hidden[t] = u[:, 2 * size :]
        new = gate[:, 2 * size :].addcmul_(gate[:, :size], hidden[t]).tanh_()
        h = torch.lerp(new, h, gate[:, size : 2 * size], out=states[t])
    return states, (gates, hidden), states[order[-1]].clone()


def _gru_back(slopes: Tensor, before: Tensor, kept: list[Tensor], w_hh: Tensor, order: range) -> Any:
    gates, hidden = kept
    size = gates.shape[2] // 3
    reset, update, new = gates.chunk(3, dim=2)
    # Everything that does not depend on the slope, for all times at once.
    d_hidden = torch.empty_like(gates)
    d_new = (1 - update) * (1 - new.square())
    d_update = (before - new) * update * (1 - update)
    d_reset = hidden * reset * (1 - reset)
    d_in_new = torch.empty_like(new)
    dh = torch.zeros_like(slopes[0])
    for t in reversed(order):
        dh = dh + slopes[t]
        out = d_hidden[t]
        d = torch.mul(dh, d_new[t], out=d_in_new[t])
        torch.mul(d, d_reset[t], out=out[:, :size])
        torch.mul(dh, d_update[t], out=out[:, size : 2 * size])
        torch.mul(d, reset[t], out=out[:, 2 * size :])
        dh = torch.addmm(dh * update[t], out, w_hh)
    return torch.cat([d_hidden[:, :, : 2 * size], d_in_new], dim=2), d_hidden, dh


def _lstm(gates: Tensor, h: Tensor, c: Tensor, w_hh: Tensor, b_hh: Tensor | None, order: range) -> Any:
    steps, n, width = gates.shape
    size = width // 4
    states, cells = gates.new_empty(steps, n, size), gates.new_empty(steps, n, size)
    first = c
    for t in order:
        gate = gates[t].add_(functional.linear(h, w_hh, b_hh))
        gate[:, : 2 * size].sigmoid_()
        gate[:, 2 * size : 3 * size].tanh_()
        gate[:, 3 * size :].sigmoid_()
        i, f, g, o = gate.chunk(4, dim=1)
        c = torch.addcmul(f * c, i, g, out=cells[t])
        h = torch.mul(o, c.tanh(), out=states[t])
    return states, (gates, cells, first), c.clone()


def _lstm_back(slopes: Tensor, dc: Tensor, kept: list[Tensor], w_hh: Tensor, order: range) -> Any:
    gates, cells, first = kept
    d_in = torch.empty_like(gates)
    dh = torch.zeros_like(slopes[0])
    for t in reversed(order):
        dh = dh + slopes[t]
        i, f, g, o = gates[t].chunk(4, dim=1)
        c = cells[t].tanh()
        before = first if t == order[0] else cells[t - order.step]
        dc = dc + dh * o * (1 - c.square())
        di, df, dg, do = d_in[t].chunk(4, dim=1)
        torch.mul(dc * g, i * (1 - i), out=di)
        torch.mul(dc * before, f * (1 - f), out=df)
        torch.mul(dc * i, 1 - g.square(), out=dg)
        torch.mul(dh * c, o * (1 - o), out=do)
        dh = d_in[t] @ w_hh
        dc = dc * f
    return d_in, dh, dc


def gru(page: Page, *arguments: Any) -> Any:
    """``torch.gru``."""
    return _recurrent(page, arguments, lstm=False)


def lstm(page: Page, *arguments: Any) -> Any:
    """``torch.lstm``."""
    return _recurrent(page, arguments, lstm=True)


def _recurrent(page: Page, arguments: tuple[Any, ...], *, lstm: bool) -> Any:
    if len(arguments) != 9 or not isinstance(arguments[2], (list, tuple)) or isinstance(arguments[3], (list, tuple)):
        return None  # a packed sequence
    x, state, flat, biases, layers, dropout, train, both, batch_first = arguments
    per, directions = (4 if biases else 2), (2 if both else 1)
    if len(flat) != per * layers * directions:
        return None  # an LSTM with projections

    def run(x: Tensor, h: Tensor, *more: Tensor) -> Any:
        """x (R, n, T, in) or (R, T, n, in); h and c (R, layers * directions, n, H)."""
        c = more[0] if more else None
        values = x if batch_first else x.transpose(1, 2)
        many, steps = values.shape[1:3]
        values = values.reshape(-1, steps, values.shape[-1])
        states, cells = [], []
        for layer in range(layers):
            if layer and dropout and train:
                values = functional.dropout(values, dropout, training=True)
            parts = []
            for back in range(directions):
                k = layer * directions + back
                weights = (*flat[k * per : (k + 1) * per], None, None)[:4]
                start = [s[:, k].reshape(len(values), -1) for s in (h, c) if s is not None]
                y, last = apply(_Cell, page, page.anchor, values, *(*start, None)[:2], weights, bool(back))
                parts.append(y)
                states.append((y[:, 0] if back else y[:, -1]).view(len(h), many, -1))
                cells.append(last.view(len(h), many, -1))
            values = torch.cat(parts, dim=2) if both else parts[0]
        values = values.view(len(h), many, steps, -1)
        found = [values if batch_first else values.transpose(1, 2), torch.stack(states, dim=1)]
        return (*found, torch.stack(cells, dim=1)) if lstm else tuple(found)

    return page.enter(run, x, *state) if lstm else page.enter(run, x, state)
