"""Cross-attention of text tokens to others, which two of the fusion variants use, as the released code computes it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from workbench.models.watching import watched_attend


class SampleLayerNorm(nn.Module):
    """Layer norm with the sample deviation: w·(x − mean)/(std + ε) + b, std over n − 1, as in the released code."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalised over the last dimension, in fp32 at least."""
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        centred = wide - wide.mean(dim=-1, keepdim=True)
        normalised: Tensor = self.weight * centred / (wide.std(dim=-1, keepdim=True) + self.eps) + self.bias
        return normalised.to(x.dtype)


class CrossAttention(nn.Module):
    """Multi-head attention of queries to other tokens; Xavier weights and zero biases, as released.

    Args:
        query_width: of the queries.
        key_width: of keys, values and output.
        inner_width: of all heads together.
        dropout: of the attention weights.
    """

    def __init__(self, query_width: int, key_width: int, inner_width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.q_proj = nn.Linear(query_width, inner_width)
        self.k_proj = nn.Linear(key_width, inner_width)
        self.v_proj = nn.Linear(key_width, inner_width)
        self.out_proj = nn.Linear(inner_width, key_width)
        for affine in (self.q_proj, self.k_proj, self.v_proj, self.out_proj):
            nn.init.xavier_uniform_(affine.weight)
            nn.init.zeros_(affine.bias)

    def forward(self, queries: Tensor, keys: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """The attention output of queries B×L×C over keys, B×L×key_width.

        Args:
            keys: B×K×C, or image tokens B×H×W×C.
            key_mask: B×K, False at padding.
        """
        grid = (keys.shape[1], keys.shape[2]) if keys.ndim == 4 else None
        keys = keys.flatten(1, -2)

        def heads(x: Tensor) -> Tensor:
            separate: Tensor = x.unflatten(-1, (self.heads, -1))
            return separate.transpose(1, 2)

        attended = watched_attend(
            self,
            heads(self.q_proj(queries)),
            heads(self.k_proj(keys)),
            heads(self.v_proj(keys)),
            key_mask,
            self.dropout if self.training else 0.0,
            grid,
        )
        out: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return out


class CrossAttentionLayer(nn.Module):
    """Cross-attention and an MLP, each with a residual and followed by a norm (the released MHA_FFN)."""

    def __init__(self, width: int, inner_width: int, heads: int, mlp_width: int, dropout: float) -> None:
        super().__init__()
        self.attention = CrossAttention(width, width, inner_width, heads, dropout)
        self.norm1 = SampleLayerNorm(width)
        self.lin1 = nn.Linear(width, mlp_width)
        self.lin2 = nn.Linear(mlp_width, width)
        self.norm2 = SampleLayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Queries B×L×C after attending to keys B×K×C or image tokens B×H×W×C, B×L×C."""
        queries = self.norm1(queries + self.dropout(self.attention(queries, keys)))
        inner = self.dropout(self.lin1(queries).relu())
        out: Tensor = self.norm2(queries + self.dropout(self.lin2(inner)))
        return out
