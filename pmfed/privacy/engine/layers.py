"""Rules for layers: run one on all records at once, and note in backward what its weights' gradients follow from.

Each is a ``torch.autograd.Function`` on plain tensors whose first axis is the records. Gradients of the inputs
are torch's own; gradients of the weights are left out of backward and noted on the ``Page``.

Where the page's precision is bfloat16, layers that multiply round what they multiply, and nothing else is rounded: what
they give is float32 again, so norms, activations and the loss are float32 arithmetic. torch.autocast does not do: its lists
of operations differ between processors and graphics cards, leave activations rounded, and say nothing of backward here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pmfed.privacy.engine.backward import LookedUpRows, Page, apply, full

aten = torch.ops.aten

GROUPED = 256
"""From so many output positions on, a grouped convolution beats unfolding for one gradient per record."""


def fresh(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Reshape the result of a Function to something autograd does not take for a view: in-place ReLU may follow."""
    found: Tensor = aten._unsafe_view(tensor.contiguous(), shape)
    return found


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, page: Page, _: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.page, ctx.wanted = page, (page.find(weight), page.find(bias))
        x, weight = page.rounded(x), page.rounded(weight)
        ctx.save_for_backward(x, weight)
        y = functional.linear(x, weight, None if bias is None else page.rounded(bias))
        return fresh(full(y), (*x.shape[:-1], weight.shape[0]))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        page, (w, b) = ctx.page, ctx.wanted
        slope = page.rounded(g)
        note_matrix(page, w, x, slope)
        page.dense(b, lambda: g.reshape(page.records, -1, g.shape[-1]).sum(1))
        return None, None, full(slope.matmul(weight)) if ctx.needs_input_grad[2] else None, None, None


def note_matrix(page: Page, index: int | None, x: Tensor, g: Tensor) -> None:
    """Note the gradient of a weight (out, in) that multiplies every position: x (R, ..., in), g (R, ..., out)."""
    if index is None:
        return
    # Detached: the graph knows the page, and a page that knew the graph would live until the next collection.
    a, g = (t.detach().reshape(page.records, 1, -1, t.shape[-1]) for t in (x, g))

    def weighted(weights: Tensor) -> Tensor:
        slopes = full(g)
        scaled = slopes * weights.to(slopes.dtype).view(-1, 1, 1, 1)
        return scaled.reshape(-1, g.shape[-1]).mT @ full(a).reshape(-1, a.shape[-1])

    page.product(
        index, (a, g), lambda rows: (full(a[rows]), full(g[rows])), weighted, lambda: full(g)[:, 0].mT @ full(a)[:, 0]
    )


def linear(page: Page, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    """``torch.nn.functional.linear``."""
    return page.enter(lambda x: apply(_Linear, page, page.anchor, x, weight, bias), x)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, page: Page, _: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, how: _How) -> Tensor:
        ctx.page, ctx.how, ctx.wanted = page, how, (page.find(weight), page.find(bias))
        x, weight = page.rounded(x), page.rounded(weight)
        ctx.save_for_backward(x, weight)
        images = x.reshape(-1, *x.shape[-1 - how.ndim :])
        y = aten.convolution(
            images, weight, None if bias is None else page.rounded(bias), *how.arguments(), how.groups
        )  # fmt: skip
        return fresh(full(y), (*x.shape[: -1 - how.ndim], *y.shape[1:]))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        how: _How = ctx.how
        page, (w, b) = ctx.page, ctx.wanted
        images, exact = (t.reshape(-1, *t.shape[-1 - how.ndim :]) for t in (x, g))
        slopes, found = page.rounded(exact), None
        if ctx.needs_input_grad[2]:
            found = full(how.backward(slopes, images, weight, how.groups, inputs=True)).view(x.shape)
        if w is not None:
            _note_convolution(page, w, images, slopes, weight.shape, how)
        page.dense(b, lambda: exact.flatten(2).sum(2).view(page.records, -1, exact.shape[1]).sum(1))
        return None, None, found, None, None, None


class _How:
    """The settings of a convolution, and torch's kernels with them."""

    def __init__(self, ndim: int, stride: Any, padding: Any, dilation: Any, groups: int, more: Any = None) -> None:
        self.ndim, self.groups = ndim, groups
        self.stride, self.padding, self.dilation = (_tuple(v, ndim) for v in (stride, padding, dilation))
        self.transposed, self.more = more is not None, _tuple(0 if more is None else more, ndim)

    def arguments(self) -> tuple[Any, ...]:
        return self.stride, self.padding, self.dilation, self.transposed, self.more

    def backward(self, g: Tensor, x: Tensor, weight: Tensor, groups: int, *, inputs: bool) -> Tensor:
        found = aten.convolution_backward(
            g, x, weight, None, *self.arguments(), groups, [inputs, not inputs, False]
        )  # fmt: skip
        result: Tensor = found[0 if inputs else 1]
        return result

    def unfold(self, x: Tensor, shape: torch.Size) -> Tensor:
        """Return what the kernel sees at each position, (n, groups, T, in / groups * kernel)."""
        kernel = shape[2:]
        x = functional.pad(x, [p for size in reversed(self.padding) for p in (size, size)])
        for axis, (size, step, gap) in enumerate(zip(kernel, self.stride, self.dilation, strict=True)):
            x = x.unfold(2 + axis, (size - 1) * gap + 1, step)[..., ::gap]
        # (n, C, *positions, *kernel) -> (n, groups, C / groups * kernel, T): a copy unless the kernel is one pixel
        n, channels, places = len(x), x.shape[1], x.shape[2 : 2 + self.ndim]
        x = x.permute(0, 1, *range(2 + self.ndim, 2 + 2 * self.ndim), *range(2, 2 + self.ndim))
        return x.reshape(n, self.groups, channels // self.groups * kernel.numel(), places.numel()).mT


def _note_convolution(page: Page, index: int, x: Tensor, g: Tensor, shape: torch.Size, how: _How) -> None:
    x, g = x.detach(), g.detach()
    records, many = page.records, len(x) // page.records
    positions = g.shape[2:].numel()

    def gradients() -> Tensor:
        """One gradient per record, (R, *weight)."""
        if positions < GROUPED and many == 1 and not how.transposed:
            slopes = full(g).reshape(records, how.groups, -1, positions)
            return (slopes @ how.unfold(full(x), shape)).reshape(records, *shape)
        slopes, images = (full(t).reshape(1, -1, *t.shape[2:]) for t in (g, x))
        weight = slopes.new_empty(1).expand(len(x) * shape[0], *shape[1:])  # only its shape is read
        found = how.backward(slopes, images, weight, how.groups * len(x), inputs=False)
        return found.view(records, many, *shape).sum(1) if many > 1 else found.view(records, *shape)

    if how.transposed:
        page.dense(index, gradients)
        return

    def rows_of(rows: Tensor | slice) -> tuple[Tensor, Tensor]:
        some, slopes = (full(t.view(records, many, *t.shape[1:])[rows].flatten(0, 1)) for t in (x, g))
        n = len(some) // many
        pair = how.unfold(some, shape), slopes.reshape(len(slopes), how.groups, -1, positions).mT
        if many > 1:
            pair = tuple(
                t.view(n, many, *t.shape[1:]).transpose(1, 2).reshape(n, how.groups, -1, t.shape[-1]) for t in pair
            )  # type: ignore[assignment]
        return pair

    def weighted(weights: Tensor) -> Tensor:
        slopes = full(g)
        scale = weights.to(slopes.dtype).repeat_interleave(many).view(-1, *[1] * (g.ndim - 1))
        return how.backward(slopes * scale, full(x), slopes.new_empty(1).expand(shape), how.groups, inputs=False)

    ins, outs = shape[1:].numel(), shape[0] // how.groups
    page.product(index, (x, g), rows_of, weighted, gradients, (positions * many, how.groups, ins, outs))


def convolution(ndim: int) -> Callable[..., Any]:
    """Return the rule of ``torch.conv1d``, ``conv2d`` or ``conv3d``."""

    def rule(
        page: Page, input: Tensor, weight: Tensor, bias: Tensor | None = None,
        stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1,
    ) -> Any:  # fmt: skip
        if isinstance(padding, str):
            spans = [d * (k - 1) for d, k in zip(_tuple(dilation, ndim), weight.shape[2:], strict=True)]
            if padding == "same" and any(span % 2 for span in spans):
                return None  # uneven: torch pads one side more
            padding = tuple(span // 2 for span in spans) if padding == "same" else 0
        how = _How(ndim, stride, padding, dilation, groups)
        return page.enter(lambda x: apply(_Convolution, page, page.anchor, x, weight, bias, how), input)

    return rule


def transposed(ndim: int) -> Callable[..., Any]:
    """Return the rule of ``torch.conv_transpose1d``, ``conv_transpose2d`` or ``conv_transpose3d``."""

    def rule(
        page: Page, input: Tensor, weight: Tensor, bias: Tensor | None = None,
        stride: Any = 1, padding: Any = 0, output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
    ) -> Any:  # fmt: skip
        how = _How(ndim, stride, padding, dilation, groups, output_padding)
        return page.enter(lambda x: apply(_Convolution, page, page.anchor, x, weight, bias, how), input)

    return rule


def _tuple(value: Any, ndim: int) -> tuple[int, ...]:
    found = (value,) if isinstance(value, int) else tuple(value)
    return found * ndim if len(found) == 1 else found


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, page: Page, _: Tensor, x: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int, eps: float
    ) -> Tensor:
        flat = x.reshape(x.shape[0] * x.shape[1], x.shape[2], -1)
        ctx.sizes = (*flat.shape, groups)
        y, mean, rstd = aten.native_group_norm(flat, weight, bias, *flat.shape, groups, eps)
        ctx.save_for_backward(x, mean, rstd, weight)
        ctx.page, ctx.wanted = page, (page.find(weight), page.find(bias))
        return fresh(y, tuple(x.shape))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, mean, rstd, weight = ctx.saved_tensors
        n, channels, size, groups = ctx.sizes
        page, (w, b) = ctx.page, ctx.wanted
        flat, slope = (t.reshape(n, channels, size) for t in (x, g))
        found = None
        if ctx.needs_input_grad[2]:
            found, _, _ = aten.native_group_norm_backward(
                slope, flat, mean, rstd, weight, *ctx.sizes, [True, False, False]
            )
            found = found.view(x.shape)
        shift = slope.sum(2)

        def scales() -> Tensor:
            # sum of slope * (x - mean) * rstd
            per: Tensor = torch.linalg.vecdot(slope, flat).view(n, groups, -1)
            per = (per - mean[:, :, None] * shift.view(n, groups, -1)) * rstd[:, :, None]
            return per.view(page.records, -1, channels).sum(1)

        page.dense(w, scales)
        page.dense(b, lambda: shift.view(page.records, -1, channels).sum(1))
        return None, None, found, None, None, None, None


def group_norm(
    page: Page,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Any:
    """``torch.nn.functional.group_norm``."""
    return page.enter(lambda x: apply(_GroupNorm, page, page.anchor, x, weight, bias, num_groups, eps), input)


def instance_norm(
    page: Page, input: Tensor, running_mean: Tensor | None = None, running_var: Tensor | None = None,
    weight: Tensor | None = None, bias: Tensor | None = None,
    use_input_stats: bool = True, momentum: float = 0.1, eps: float = 1e-5,
) -> Any:  # fmt: skip
    """``torch.nn.functional.instance_norm``: one group per channel."""
    if running_mean is not None or not use_input_stats or input[0, 0].numel() == 1:
        return None
    return group_norm(page, input, input.shape[1], weight, bias, eps)


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, page: Page, _: Tensor, x: Tensor, shape: Any, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> Tensor:
        y, mean, rstd = aten.native_layer_norm(x, shape, weight, bias, eps)
        ctx.save_for_backward(x, mean, rstd, weight, bias)
        ctx.page, ctx.shape, ctx.wanted = page, shape, (page.find(weight), page.find(bias))
        return fresh(y, tuple(x.shape))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, mean, rstd, weight, bias = ctx.saved_tensors
        page, (w, b) = ctx.page, ctx.wanted

        def summed(values: Tensor) -> Tensor:
            return values.reshape(page.records, -1, *ctx.shape).sum(1)

        found = None
        if ctx.needs_input_grad[2]:
            mask = [True, False, False]
            found, _, _ = aten.native_layer_norm_backward(g, x, ctx.shape, mean, rstd, weight, bias, mask)
        page.dense(w, lambda: summed(g * ((x - mean) * rstd)))
        page.dense(b, lambda: summed(g))
        return None, None, found, None, None, None, None


def layer_norm(
    page: Page,
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Any:
    """``torch.nn.functional.layer_norm``."""
    shape = list(normalized_shape)
    return page.enter(lambda x: apply(_LayerNorm, page, page.anchor, x, shape, weight, bias, eps), input)


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, page: Page, _: Tensor, ids: Tensor, weight: Tensor, padding: int) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.page, ctx.wanted, ctx.shape, ctx.padding = page, page.find(weight), weight.shape, padding
        return functional.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (ids,) = ctx.saved_tensors
        page = ctx.page
        flat = ids.reshape(page.records, -1)
        slopes = g.reshape(page.records, flat.shape[1], -1)
        if ctx.padding >= 0:
            slopes = slopes * (flat != ctx.padding)[..., None]
        page.entries.append(LookedUpRows(ctx.wanted, page.patients, flat, slopes, ctx.shape))
        return None, None, None, None, None


def embedding(
    page: Page, input: Tensor, weight: Tensor, padding_idx: int | None = None, max_norm: float | None = None,
    norm_type: float = 2.0, scale_grad_by_freq: bool = False, sparse: bool = False,
) -> Any:  # fmt: skip
    """``torch.nn.functional.embedding``."""
    if max_norm is not None or scale_grad_by_freq:
        return None
    padding = -1 if padding_idx is None else padding_idx % len(weight)
    return page.enter(lambda ids: apply(_Embedding, page, page.anchor, ids, weight, padding), input)
