"""A network of an installed package as an encoder: made, repaired, and tried out before patients' data reach it."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from pmfed.errors import PmfedError, StudyError
from pmfed.models.repair import check_private, make_private
from pmfed.study.encoders import PluginEncoder

RECORDS = 3


class PluginNetwork(nn.Module):
    """A plug-in's network, made private, on one modality's inputs.

    Parameters
    ----------
    net
        Inputs (B, ...) in, embeddings (B, embedding) out.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs: Tensor) -> Tensor:
        """Return embeddings (B, embedding) of inputs (B, ...)."""
        found: Tensor = self.net(inputs)
        return found


def plugin_network(spec: PluginEncoder, shape: tuple[int, ...], embedding: int) -> PluginNetwork:
    """Return the network of a plug-in's encoder.

    Parameters
    ----------
    spec
        What the study says of it.
    shape
        Of one record's input.
    embedding
        Length of the embedding.

    Raises
    ------
    StudyError
        It cannot be made, or does not train privately: the reason, and what to do.

    Guarantee
    ---------
    Whatever network is returned was tried out on invented records of this shape: the gradient of a record depends on that record
    and the weights alone, nothing in it remembers a record, and its outputs lie in memory of their own.
    """
    _tried(spec, shape, embedding)
    return PluginNetwork(make_private(_made(spec, shape, embedding)))


def _made(spec: PluginEncoder, shape: tuple[int, ...], embedding: int) -> nn.Module:
    try:
        net = spec.network(shape, embedding)
    except PmfedError:
        raise
    except Exception as error:
        raise StudyError(
            f"model.encoders: the network of '{spec.kind}' cannot be made ({type(error).__name__}; its text is above)."
        ) from error
    if not isinstance(net, nn.Module):
        raise StudyError(f"model.encoders: '{spec.kind}' gives a {type(net).__name__}, not a torch module.")
    return net


@lru_cache(maxsize=32)
def _tried(spec: PluginEncoder, shape: tuple[int, ...], embedding: int) -> None:
    """Try a network out, once for each way in which a study asks for it; no draw of the caller's random numbers is used up."""
    try:
        with torch.random.fork_rng(devices=[]):
            torch.random.manual_seed(0)
            first = make_private(_made(spec, shape, embedding))
            torch.random.manual_seed(0)
            second = make_private(_made(spec, shape, embedding))
            _same_start(first, second)
            examples = torch.rand(RECORDS, *shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
            check_private(first, examples)
            _check_outputs(first, examples, embedding)
    except StudyError as error:
        raise StudyError(f"model.encoders: '{spec.kind}': {error.what}", error.remedy) from error


def _same_start(first: nn.Module, second: nn.Module) -> None:
    """Refuse weights that another hospital would not begin with."""
    one, other = first.state_dict(), second.state_dict()
    if one.keys() != other.keys() or any(not torch.equal(one[name], other[name]) for name in one):
        raise StudyError(
            "the network begins with other weights each time it is made, so sites would not train the same model.",
            "Draw them by torch's own functions, which follow model.seed.",
        )


def _check_outputs(net: nn.Module, examples: Tensor, embedding: int) -> None:
    """Refuse outputs of another shape, that are the inputs' memory, or that change when nothing is trained."""
    net, given = net.eval(), examples.clone()
    with torch.no_grad():
        found, again = net(given), net(given)
    if not torch.equal(given, examples):
        raise StudyError("the network writes into the inputs it is given.", "Use operations that are not in place.")
    if not isinstance(found, Tensor) or found.shape != (len(examples), embedding):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise StudyError(
            f"the network must give ({len(examples)}, {embedding}) of {len(examples)} records, a row of 'model.embedding' numbers for "
            f"each, not {shape}."
        )
    if found.untyped_storage().data_ptr() == given.untyped_storage().data_ptr():
        raise StudyError(
            "the network gives back the memory of its inputs: what changes one changes the other.",
            "End with a layer, or with .clone().",
        )
    if not torch.equal(found, again):
        raise StudyError(
            "the network gives other outputs when it sees the same records again in a prediction.",
            "Use nn.Dropout, or dropout with training=self.training: it must be off in eval mode.",
        )
