"""From a study's ``[model.encoders]`` to torch: one embedding per record of one modality."""

from __future__ import annotations

import itertools

from torch import nn

from pmfed.modality import Modality
from pmfed.models.imaging import MonaiEncoder, SmallCNN
from pmfed.models.plugin import plugin_network
from pmfed.models.sequence import RecurrentEncoder, TransformerEncoder
from pmfed.study import encoders
from pmfed.study.encoders import Cnn, Encoder, Mlp, Monai, PluginEncoder


def encoder(spec: Encoder, modality: Modality, embedding: int) -> nn.Module:
    """Return the module that turns a modality's inputs (B, ...) into embeddings (B, embedding)."""
    shape = modality.shape
    if isinstance(spec, PluginEncoder):
        return plugin_network(spec, shape, embedding)
    if isinstance(spec, Cnn):
        return SmallCNN(shape[0], spec.channels, embedding, len(shape) - 1)
    if isinstance(spec, Monai):
        return MonaiEncoder(spec.kind, shape[0], embedding, len(shape) - 1)
    if isinstance(spec, Mlp):
        return perceptron((*shape, *spec.hidden, embedding))
    if isinstance(spec, encoders.Recurrent):
        return RecurrentEncoder(modality, spec.kind, spec.patch, embedding)
    return TransformerEncoder(modality, spec.patch, spec.width, spec.heads, spec.layers, embedding)


def perceptron(widths: tuple[int, ...]) -> nn.Sequential:
    """Return linear layers between those widths, each with a tanh."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.Tanh()]
    return nn.Sequential(*layers)
