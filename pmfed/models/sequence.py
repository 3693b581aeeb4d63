"""Networks for series: events before the index date, waveforms."""

from __future__ import annotations

import math

import torch
from torch import nn

from pmfed.modality import Modality


class RecurrentEncoder(nn.Module):
    """A GRU (Cho et al. 2014) or LSTM (Hochreiter and Schmidhuber 1997) over time, and an embedding of its last state.

    Values, whether they were observed and the time since are inputs side by side, so that the network knows what was
    not measured, and when it was last (Che et al. 2018, their GRU-simple).

    Parameters
    ----------
    series
        The modality: how many steps, and what a step holds.
    kind
        ``"gru"`` or ``"lstm"``.
    patch
        Steps that are read together as one.
    embedding
        Length of the embedding, and width of the state.
    """

    def __init__(self, series: Modality, kind: str, patch: int, embedding: int) -> None:
        super().__init__()
        self.patch = patch
        layer = nn.LSTM if kind == "lstm" else nn.GRU
        self.rnn = layer(patch * len(series.names), embedding, batch_first=True)
        self.embed = nn.Linear(embedding, embedding)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        """Return embeddings (B, embedding) of series (B, T, F)."""
        return torch.tanh(self.embed(self.rnn(together(series, self.patch))[0][:, -1]))


class TransformerEncoder(nn.Module):
    """A small transformer (Vaswani et al. 2017) with its norms in front (Xiong et al. 2020), and an embedding.

    Each patch of steps is a token. Its place is its time before the index date, as it was and not as it was counted:
    sines and cosines of periods from twice the span down to four tokens. Tokens in which nothing was observed, steps that only fill up among them, are not
    attended to. A learned token at the index date looks at all others and gives the embedding; all lie before it, so
    that nothing is gained by hiding later steps from earlier ones.

    Parameters
    ----------
    series
        The modality: how many steps, and what a step holds. A waveform's steps are even, and all observed.
    patch
        Steps that are read together as one token (Nie et al. 2023).
    width, heads, layers
        Of the transformer; ``width`` is a multiple of ``2 * heads``.
    embedding
        Length of the embedding.
    """

    def __init__(self, series: Modality, patch: int, width: int, heads: int, layers: int, embedding: int) -> None:
        super().__init__()
        self.length, self.patch = series.shape[0], patch
        self.observed = series.observed
        self.read = nn.Linear(patch * len(series.names), width)
        self.token = nn.Parameter(nn.init.normal_(torch.empty(1, 1, width), std=0.02))
        self.blocks = nn.ModuleList([_Block(width, heads) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.embed = nn.Linear(width, embedding)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        """Return embeddings (B, embedding) of series (B, T, F)."""
        tokens = self.read(together(series, self.patch))
        tokens = tokens + self._places(series, tokens.shape[2])
        tokens = torch.cat([tokens, self.token.expand(series.shape[0], -1, -1)], dim=1)
        seen = self._seen(series)
        for block in self.blocks:
            tokens = block(tokens, seen)
        return torch.tanh(self.embed(self.norm(tokens[:, -1])))

    def _seen(self, series: torch.Tensor) -> torch.Tensor:
        """Return which tokens may be attended to, (B, tokens + 1); the last one, the learned token, always."""
        ends = series.new_ones(series.shape[0], 1, dtype=torch.bool)
        if self.observed is None:
            return ends.expand(-1, self.length // self.patch + 1)
        observed = together(series[:, :, self.observed], self.patch).amax(dim=2) > 0
        return torch.cat([observed, ends], dim=1)

    def _places(self, series: torch.Tensor, width: int) -> torch.Tensor:
        """Return sines and cosines of the time before the index date of each token's last step, (B, tokens, width)."""
        tokens, device = self.length // self.patch, series.device
        if self.observed is not None:
            ago = series[:, self.patch - 1 :: self.patch, -1]
        else:
            ago = (torch.arange(tokens - 1, -1, -1, device=device) / tokens).expand(series.shape[0], -1)
        turns = torch.logspace(0, math.log10(max(1.0, tokens / 2)), width // 2, device=device)  # in twice the span
        angles = math.pi * ago[:, :, None] * turns
        return torch.cat([angles.sin(), angles.cos()], dim=2)


class _Block(nn.Module):
    """Attention and two linear layers, each behind a norm and added to what came in."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.asked, self.mixed = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, tokens: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Return tokens (B, N, width) that have looked at those that may be ``seen``, (B, N)."""
        size, count, width = tokens.shape
        parts = self.asked(self.before(tokens)).view(size, count, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, N, width / heads)
        scores = query @ key.transpose(2, 3) / math.sqrt(width // self.heads)
        weights = scores.masked_fill(~seen[:, None, None, :], -math.inf).softmax(dim=3)
        tokens = tokens + self.mixed((weights @ value).transpose(1, 2).reshape(size, count, width))
        added: torch.Tensor = self.narrow(nn.functional.gelu(self.wide(self.between(tokens))))
        return tokens + added


def together(series: torch.Tensor, patch: int) -> torch.Tensor:
    """Return series (B, T, F) with so many steps side by side, (B, T / patch, patch * F)."""
    size, steps, width = series.shape
    return series.reshape(size, steps // patch, patch * width)
