"""Networks made elsewhere (MONAI's, above all) made privately trainable, or refused with the reason.

A network trains privately when the gradient of a record is a function of that record and the weights alone.
``make_private`` repairs what can be repaired, ``check_private`` tries the result out.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode

from pmfed.errors import PmfedError, StudyError
from pmfed.models.monai import MonaiModel, row_each
from pmfed.privacy.gradients import PrivateStep
from pmfed.privacy.mechanism import Mechanism

Tensors = dict[str, Tensor]

GROUPS = 32
"""Most groups of a GroupNorm (Wu and He 2018)."""

CHANNELS = 8
"""Fewest channels per group, as far as there are so many: few values in a group say nothing but their order."""

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.jit.ScriptModule)
_STATES = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")

_REASONS = {  # what torch says -> why, and what to do
    "Expected more than 1": (
        "at this input size a norm sees a single value, which it turns into a constant",
        "Use larger inputs, fewer strides, or fewer groups.",
    ),
    "setup_context": (
        "it has an autograd function of its own that torch cannot take record by record",
        "Replace it by torch's operations, or give it setup_context and generate_vmap_rule.",
    ),
    "saved tensor hooks": ("it recomputes activations to save memory", "Build it with use_checkpoint=False."),
    ".item()": ("what it computes branches on values", "Use torch.where in place of 'if'."),
    "data-dependent": ("what it computes branches on values", "Use torch.where in place of 'if'."),
    "requires_grad_": ("it switches gradients on inside its forward", "Leave out the call of requires_grad_."),
    "in-place": ("it writes a record into memory that all records share", "Use an operation that is not in place."),
    "inplace": ("it writes a record into memory that all records share", "Use an operation that is not in place."),
}


def make_private(module: nn.Module) -> nn.Module:
    """Return a copy that can be trained privately; the original stays as it is.

    BatchNorm, and InstanceNorm with running statistics, become GroupNorm of the same scale, shift and epsilon:
    at most 32 groups, a number that divides the channels, 8 channels or more in each where there are so many.
    In-place activations and dropouts no longer write in place. All else is a copy; what was shared stays shared.

    Parameters
    ----------
    module
        Any network. Statistics that a BatchNorm learned are lost, so pretrained weights need some training to
        be useful again. A frozen backbone needs no repair: compute its features once, in eval mode.

    Returns
    -------
    nn.Module
        The copy. Pass it through ``check_private`` before patients' data reach it.

    Raises
    ------
    StudyError
        Something can be neither kept nor replaced: SyncBatchNorm, a norm of an unknown kind, spectral norm and
        other parametrizations, hooks, a random generator of its own, layers that torch does not see.
    """
    _refuse(module)
    # Seeding the memo of deepcopy replaces a norm wherever it is referred to: shared, aliased, the root itself.
    memo: dict[int, Any] = {}
    for norm in module.modules():
        if isinstance(norm, _NormBase) and _remembers(norm):
            memo[id(norm)] = _group_norm(norm, memo)
    private = _copied(module, memo)
    for part in private.modules():
        if getattr(part, "inplace", False) is True:
            setattr(part, "inplace", False)  # noqa: B010 - for mypy it is a tensor or a module
    return private


def check_private(module: nn.Module, example: Tensor | tuple[Tensors, Tensors]) -> None:
    """Try out that a network trains privately; return if it does.

    In train mode, with dropout held still: no buffer or other tensor that the network keeps changes, the output
    of a record alone is its output in a batch, and per-record gradients of ``PrivateStep`` (vmap) are those of a
    loop of backward passes over single records (relative difference up to 1e-4).

    Parameters
    ----------
    module
        A network of images (a tensor in, a tensor or a tuple that starts with one out), or a study's model.
    example
        Invented records, two or more: a tensor (R, C, ...), or (inputs, present) for a study's model. Use the
        sizes of the study: a norm over a single value is found only there. Never patients: errors may quote.

    Raises
    ------
    StudyError
        The network does not train privately: the reason, and the remedy.
    """
    _refuse(module)
    for name, part in module.named_modules():
        if isinstance(part, _NormBase) and _remembers(part):
            raise StudyError(
                f"{_at(name, part)} mixes patients or remembers them.", "Pass the network through make_private."
            )
    model = _copied(module, {}).cpu().train()
    if isinstance(example, Tensor):
        model = MonaiModel(model, "images")
        example = ({"images": example}, {"images": torch.ones(len(example), dtype=torch.bool)})
    model, inputs, present = _precise(model, *({name: t.cpu() for name, t in part.items()} for part in example))
    records = len(next(iter(inputs.values())))
    if records < 2:
        raise StudyError("one record cannot show whether records mix.", "Give an example of two records or more.")
    with _Still():  # type: ignore[no-untyped-call]
        together = _forward(model, inputs, present, records)
        again = _forward(model, inputs, present, records)
        if not torch.equal(together, again):
            raise StudyError(
                "the network gives other outputs when it sees the same records again, with dropout held still.",
                "Take out what draws random numbers or remembers, except Dropout.",
            )
        loop = []
        for i in range(records):
            alone = _forward(model, *_record(inputs, present, i), 1)
            if not _close(together[i], alone[0].detach()):
                raise StudyError(
                    "the output of a record depends on the other records of the batch.",
                    "Use layers that look at each record alone: no statistics, means or attention over the batch.",
                )
            loop.append(_gradient(model, _losses(alone, torch.tensor([_weight(i)]))))
        _compare(model, inputs, present, loop)


class _Still(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Dropout keeps everything and uniform numbers are one half, so that a record sees the same in any batch."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        match func.overloadpacket.__name__:
            case "bernoulli" | "bernoulli_":
                return found.fill_(1)
            case "rand" | "rand_like" | "uniform" | "uniform_" | "randn" | "randn_like" | "normal_":
                return found.fill_(0.5)
            case "native_dropout":
                return args[0].clone(), torch.ones_like(found[1])
        return found


def _refuse(module: nn.Module) -> None:
    """Refuse by kind, before anything runs."""
    _refuse_shared_memory(module)
    for name, part in module.named_modules():
        where = _at(name, part)
        if isinstance(part, _WRAPPERS) or "_orig_mod" in part._modules:
            raise StudyError(f"{where} wraps or compiles the network.", "Give the plain network inside it.")
        if isinstance(part, LazyModuleMixin) and part.has_uninitialized_params():  # type: ignore[misc]
            raise StudyError(f"{where} has no weights yet.", "Run the network once on an invented example.")
        if isinstance(part, nn.SyncBatchNorm):
            raise StudyError(
                f"{where} shares patients' statistics between machines.",
                "Build the network with BatchNorm, which is replaced, or with GroupNorm.",
            )
        if isinstance(part, _NormBase) and type(part) not in _BATCH_NORMS + _INSTANCE_NORMS:
            raise StudyError(f"{where} is a norm of an unknown kind.", "Replace it by GroupNorm or LayerNorm.")
        if parametrize.is_parametrized(part):
            raise StudyError(
                f"{where} computes its weights (spectral norm, weight norm, ...), some with a memory of past steps.",
                "torch.nn.utils.parametrize.remove_parametrizations leaves plain weights.",
            )
        if any(getattr(part, hooks) for hooks in _HOOKS):
            raise StudyError(
                f"{where} has hooks (spectral norm, weight norm, pruning, feature extraction), which may remember "
                "patients.",
                "Remove them: torch.nn.utils.remove_spectral_norm, remove_weight_norm, prune.remove, handle.remove.",
            )
        if any(isinstance(value, _STATES) for value in vars(part).values()):
            raise StudyError(
                f"{where} draws from a random generator of its own, so a record's draw depends on those before it.",
                "Draw with torch's own functions, as Dropout does.",
            )


def _refuse_shared_memory(module: nn.Module) -> None:
    """Refuse parameters that lie in one memory and are not one: a copy parts them, and a step of one would be a step of both."""
    held: dict[int, list[tuple[int, int, str]]] = {}
    for name, parameter in module.named_parameters():
        if isinstance(parameter, UninitializedParameter) or not parameter.numel():
            continue
        first = int(parameter.storage_offset())
        last = sum((size - 1) * step for size, step in zip(parameter.shape, parameter.stride(), strict=True))
        end = first + int(last) + 1
        others = held.setdefault(parameter.untyped_storage().data_ptr(), [])
        for start, stop, other in others:
            if first < stop and start < end:
                raise StudyError(
                    f"the weights '{other}' and '{name}' are tied by their memory only, and training would part them.",
                    "Give both layers the same parameter, as in: self.second.weight = self.first.weight",
                )
        others.append((first, end, name))


def _copied(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Copy; refuse layers outside ``modules()``, in a list or a partial: nothing repairs, trains or watches them."""
    try:
        copied: nn.Module = copy.deepcopy(module, memo)
    except Exception as error:
        raise StudyError(
            f"{type(module).__name__} cannot be copied ({type(error).__name__}; its text is above).",
            "Make the network anew: one that has run may keep results that torch does not copy.",
        ) from error
    seen = set(copied.modules())
    hidden = [value for value in memo.values() if isinstance(value, nn.Module) and value not in seen]
    if hidden:
        kinds = ", ".join(sorted({type(part).__name__ for part in hidden}))
        raise StudyError(
            f"the network keeps layers where torch does not see them ({kinds}).",
            "Keep them as attributes, in nn.ModuleList or in nn.ModuleDict.",
        )
    return copied


def _remembers(norm: _NormBase) -> bool:
    return isinstance(norm, _BatchNorm) or norm.track_running_stats


def _group_norm(norm: _NormBase, memo: dict[int, Any]) -> nn.GroupNorm:
    channels = norm.num_features
    groups = max(g for g in range(1, GROUPS + 1) if channels % g == 0 and (g == 1 or channels // g >= CHANNELS))
    new = nn.GroupNorm(groups, channels, eps=norm.eps, affine=norm.affine)
    if norm.affine:
        new.weight, new.bias = copy.deepcopy(norm.weight, memo), copy.deepcopy(norm.bias, memo)  # tied stay tied
    return new.train(norm.training)


def _precise(model: nn.Module, inputs: Tensors, present: Tensors) -> tuple[nn.Module, Tensors, Tensors]:
    """Return all in float64, where rounding hardly ever flips a ReLU; as they are if the network insists."""
    precise = copy.deepcopy(model).double()
    doubled = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in inputs.items()}
    try:
        with torch.no_grad():
            copy.deepcopy(precise)(dict(doubled), dict(present))
    except Exception:
        return model, inputs, present  # whatever is wrong is told by the real run
    return precise, doubled, present


def _forward(model: nn.Module, inputs: Tensors, present: Tensors, records: int) -> Tensor:
    """Return the outputs; refuse if a buffer, or a tensor in a plain attribute, is another one afterwards."""
    held = list(_tensors(model))  # held, so that no new tensor gets the id of one that is gone
    before = [(id(tensor), tensor._version) for tensor in held]
    try:
        outputs = row_each(model(dict(inputs), dict(present)), records)
    except PmfedError:
        raise
    except Exception as error:
        raise _explain(error) from error
    if before != [(id(tensor), tensor._version) for tensor in _tensors(model)]:
        raise StudyError(
            "the network keeps something of the records it has seen (a buffer or an attribute changed).",
            "Use layers without running statistics; turn off what stores activations (deep supervision, save_attn).",
        )
    return outputs


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    """Yield every tensor a network holds apart from its parameters."""

    def tensors(value: object) -> Iterator[Tensor]:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            for item in value:
                yield from tensors(item)
        elif isinstance(value, dict):
            for item in value.values():
                yield from tensors(item)

    for part in model.modules():
        for name, value in vars(part).items():
            if name not in ("_parameters", "_modules"):
                yield from tensors(value)


def _compare(model: nn.Module, inputs: Tensors, present: Tensors, loop: list[list[Tensor]]) -> None:
    """Compare vmap with the loop. Each record has its own weight, so an error of one cannot hide in the sum."""
    records = len(loop)
    step = PrivateStep(model, _losses, Mechanism("check", "train", "record", 1.0, 0.0, float("inf"), 1, 1, 0))
    step._chunk = records  # all at once, however much memory the weights take
    weights = torch.tensor([_weight(i) for i in range(records)])
    try:
        found = step.clipped_sum(inputs, present, weights, np.arange(records)).vector
    except PmfedError:
        raise
    except Exception as error:
        raise _explain(error) from error
    start = 0
    sums = [torch.stack(parts).sum(0) for parts in zip(*loop, strict=True)]
    largest = max(float(total.abs().max()) for total in sums)
    for total in sums:
        part = torch.from_numpy(found[start : start + total.numel()]).view_as(total)
        start += total.numel()
        if not _close(part, total.double(), largest):
            raise StudyError(
                "per-record gradients differ from those of a loop over single records.",
                "A layer behaves otherwise under torch.func.vmap; find it by leaving layers out.",
            )


def _losses(outputs: Tensor, weights: Tensor) -> Tensor:
    """Return a loss per record that looks at every output, times the record's weight."""
    flat = outputs.flatten(1)
    probe = torch.linspace(-1, 1, flat.shape[1], dtype=flat.dtype)
    return weights * (flat * probe + flat.square()).mean(1)


def _weight(record: int) -> float:
    return (1.0, -2.0, 3.5)[record % 3] + 0.17 * record


def _gradient(model: nn.Module, losses: Tensor) -> list[Tensor]:
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise StudyError("the network has no trainable parameters.")
    return list(torch.autograd.grad(losses.sum(), trained, materialize_grads=True))


def _record(inputs: Tensors, present: Tensors, i: int) -> tuple[Tensors, Tensors]:
    return {k: v[i : i + 1] for k, v in inputs.items()}, {k: v[i : i + 1] for k, v in present.items()}


def _close(a: Tensor, b: Tensor, largest: float | None = None) -> bool:
    scale = float(b.abs().max()) if largest is None else largest
    return torch.allclose(a, b, rtol=1e-4, atol=1e-6 * scale)


def _explain(error: Exception) -> StudyError:
    text = str(error)
    for phrase, (reason, remedy) in _REASONS.items():
        if phrase in text:
            return StudyError(f"the network cannot be trained record by record: {reason}.", remedy)
    return StudyError(
        f"the network does not run on the example, record by record ({type(error).__name__}; its text is above).",
        "Check the example's shape; then leave layers out until it runs, to find the one to replace.",
    )


def _at(name: str, part: nn.Module) -> str:
    return f"{type(part).__name__} at '{name}'" if name else type(part).__name__
