"""A model's code without its data, to be called with tensors by name."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import Tensor, nn
from torch.func import functional_call

from pmfed.privacy.batches import Tensors


class Shell:
    """A copy of a model on the meta device.

    torch 2.13's ``functional_call`` corrupts a module that has several names, and ``Module.to`` parts weights that are
    one. Here every module has one name, and a weight of several layers is given to each of them.

    Parameters
    ----------
    model
        Whose parameters and buffers are given at each call, by the names that ``named_parameters`` and
        ``named_buffers`` know them by.
    """

    def __init__(self, model: nn.Module) -> None:
        bare: dict[int, Tensor] = {id(b): b.to("meta") for b in model.buffers()}
        bare |= {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in model.parameters()}
        self.module = copy.deepcopy(model, bare)
        known = {id(t): name for name, t in (*model.named_parameters(), *model.named_buffers())}
        self._places = [
            (f"{path}.{name}" if path else name, known[id(tensor)])
            for path, part in model.named_modules()
            for name, tensor in (*part._parameters.items(), *part._buffers.items())
            if tensor is not None
        ]

    def __call__(self, tensors: Mapping[str, Tensor], inputs: Tensors, present: Tensors) -> Tensor:
        """Return the model's outputs with these tensors in the place of its own."""
        given = {place: tensors[name] for place, name in self._places}
        outputs: Tensor = functional_call(self.module, given, (dict(inputs), dict(present)), tie_weights=False)
        return outputs
