"""Lets a process that holds some rows of a batch compute what a layer would have computed in the whole batch.

Two kinds of layers look beyond a row: BatchNorm, whose mean and variance are the batch's, and dropout (stochastic depth
too), whose draw depends on where a row stands. Both are caught where torch is called, so that any library's layers
are: BatchNorm takes its sums from all processes, dropout draws for all rows and keeps its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from featprobe.heads.team import Team
from featprobe.records import IntArray

_DROPOUTS: Final[tuple[Callable[..., Tensor], ...]] = (
    functional.dropout,
    functional.dropout1d,
    functional.dropout2d,
    functional.dropout3d,
)


class WholeBatch(TorchFunctionMode):
    """Inside, `rows` of the `count` rows of a batch pass; `live`: whether they count, see `Team.whole_batch`.

    A network that draws in yet another way, as attention does with a dropout of its own, draws for each share anew.
    """

    def __init__(self, team: Team, rows: IntArray, count: int, *, live: bool) -> None:
        super().__init__()
        self.team, self.count, self.live = team, count, live
        self.rows = torch.from_numpy(rows)

    def __torch_function__(
        self, func: Any, types: Iterable[Any], args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Torch's own function but for the three kinds above."""
        del types
        given = kwargs or {}
        if func is functional.batch_norm:
            return self._batch_norm(func, *args, **given)
        if func in _DROPOUTS:
            return self._dropout(func, *args, **given)
        if func is torch.Tensor.bernoulli_:
            return self._bernoulli(func, *args, **given)
        return func(*args, **given)

    def _batch_norm(
        self,
        func: Any,
        inputs: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            plain: Tensor = func(inputs, running_mean, running_var, weight, bias, False, momentum, eps)
            return plain
        with torch.no_grad():
            amount, mean, variance = self._moments(inputs)
            if running_mean is not None and running_var is not None:
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
                unbiased = variance * amount / (amount - 1)
                running_var.lerp_(unbiased.to(running_var.dtype), momentum)
            scale = (variance + eps).rsqrt()
        width = inputs.shape[1]
        gain = torch.ones(width, device=inputs.device) if weight is None else weight
        shift = torch.zeros(width, device=inputs.device) if bias is None else bias
        normed: Tensor = _Norm.apply(
            inputs, gain, shift, mean.float(), scale.float(), amount, self.team, self.live
        )
        return normed

    def _moments(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(numbers per channel [1], their mean [C], their variance [C]) over all processes, float64.

        A row may stand for any number of images, so that the numbers are counted, too.
        """
        axes, width = [0, *range(2, inputs.ndim)], inputs.shape[1]
        exact = inputs.float()
        mean = exact.mean(axes, keepdim=True)
        spread = (exact - mean).square_().sum(axes).double()
        own, held = mean.flatten().double(), inputs.numel() // width
        # In float64 nothing of float32 numbers is lost in the difference below.
        sums = torch.cat([own.new_full((1,), held), held * own, spread + held * own.square()])
        sums = self.team.total(sums if self.live else torch.zeros_like(sums))
        amount, first, second = sums[:1], sums[1 : 1 + width], sums[1 + width :]
        centre = first / amount
        return amount, centre, (second / amount - centre.square()).clamp_(min=0)

    def _dropout(
        self, func: Any, inputs: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        each = len(inputs) // len(self.rows)
        if not training or p == 0 or each * len(self.rows) != len(inputs):
            plain: Tensor = func(inputs, p, training, inplace)
            return plain
        ones = torch.ones((self.count * each, *inputs.shape[1:]), dtype=inputs.dtype, device=inputs.device)
        if inputs.ndim == 4 and inputs.is_contiguous(memory_format=torch.channels_last):
            ones = ones.contiguous(memory_format=torch.channels_last)
        kept = self._own(func(ones, p, True, False), each)
        return inputs.mul_(kept) if inplace else inputs * kept

    def _bernoulli(self, func: Any, held: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        each = len(held) // len(self.rows) if held.ndim else 0
        if not each or each * len(self.rows) != len(held):
            plain: Tensor = func(held, *args, **kwargs)
            return plain
        drawn = func(held.new_empty((self.count * each, *held.shape[1:])), *args, **kwargs)
        return held.copy_(self._own(drawn, each))

    def _own(self, drawn: Tensor, each: int) -> Tensor:
        """Of what was drawn for all rows, `each` entries for a row, that of the rows here."""
        rows = self.rows.to(drawn.device)
        return drawn.view(self.count, each, *drawn.shape[1:])[rows].flatten(0, 1)


class _Norm(torch.autograd.Function):
    """(x - mean) * scale * gain + shift, mean and scale being those of `amount` numbers in all processes."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        gain: Tensor,
        shift: Tensor,
        mean: Tensor,
        scale: Tensor,
        amount: Tensor,
        team: Team,
        live: bool,
    ) -> Tensor:
        """Normalised inputs [B, C, ...], of the inputs' dtype."""
        ctx.save_for_backward(inputs, gain, mean, scale, amount)
        ctx.team, ctx.live = team, live
        shape = (1, -1, *(1,) * (inputs.ndim - 2))
        normed = (inputs.float() - mean.view(shape)) * scale.view(shape)
        return (normed * gain.view(shape) + shift.view(shape)).to(inputs.dtype)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        """Ioffe and Szegedy 2015 (arXiv 1502.03167, section 3), the two sums over all processes."""
        inputs, gain, mean, scale, amount = ctx.saved_tensors
        shape, axes = (1, -1, *(1,) * (inputs.ndim - 2)), [0, *range(2, inputs.ndim)]
        slope = slopes[0].float()
        normed = (inputs.float() - mean.view(shape)) * scale.view(shape)
        for_shift, for_gain = slope.sum(axes), (slope * normed).sum(axes)
        own = torch.cat([for_shift, for_gain]).double()
        both = ctx.team.total(own if ctx.live else torch.zeros_like(own)) / amount
        along, across = both.float().chunk(2)
        back = slope - along.view(shape) - normed * across.view(shape)
        back = back * (gain * scale).view(shape)
        if not ctx.live:
            back = torch.zeros_like(back)
        # Gain and shift get this process's own sums: they are added up with all other gradients.
        return back.to(inputs.dtype), for_gain, for_shift, None, None, None, None, None
