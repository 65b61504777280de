"""Multi-head self-attention from functions that have a rule, in place of torch's one function."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from samkit.errors import Unsupported


def self_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """`F.multi_head_attention_forward` of one sequence (length, b, features) with itself.

    Both projections are calls of `F.linear` on (b, length, features). Unsupported is raised for
    other keys or values, whose projections would share one parameter, and for the additions to them
    (bias_k, bias_v, add_zero_attn, static_k, static_v).
    """
    extras = (bias_k, bias_v, static_k, static_v)
    if add_zero_attn or any(t is not None for t in extras):
        raise Unsupported("attention with keys or values of its own")
    if query is not key or key is not value or in_proj_weight is None or query.dim() != 3:
        raise Unsupported("attention that is not of a batch of sequences with themselves")
    x = query.transpose(0, 1)
    b, length, features = x.shape
    projected = F.linear(x, in_proj_weight, in_proj_bias)
    q, k, v = projected.view(b, length, 3, num_heads, -1).permute(2, 0, 3, 1, 4)

    causal = is_causal and key_padding_mask is None and not need_weights
    mask = None if causal or attn_mask is None else _additive(attn_mask, q)
    if mask is not None and mask.dim() == 3:
        mask = mask.view(b, num_heads, length, length)
    if key_padding_mask is not None:
        padding = _additive(key_padding_mask, q).view(b, 1, 1, length)
        mask = padding if mask is None else mask + padding
    dropout_p = dropout_p if training else 0.0
    weights = None
    if need_weights:
        scores = q @ k.mT / q.shape[-1] ** 0.5
        weights = torch.softmax(scores if mask is None else scores + mask, -1)
        weights = F.dropout(weights, dropout_p) if dropout_p else weights
        z = weights @ v
        weights = weights.mean(1) if average_attn_weights else weights
    else:
        z = F.scaled_dot_product_attention(q, k, v, mask, dropout_p, causal)
    z = F.linear(z.transpose(1, 2).reshape(b, length, features), out_proj_weight, out_proj_bias)
    # in torch's order in memory, by which a dropout after it draws
    return z.transpose(0, 1).contiguous(), weights


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    """A mask that is added to the scores; in one of booleans, True is left out."""
    if mask.dtype != torch.bool:
        return mask
    return like.new_zeros(mask.shape).masked_fill(mask, float("-inf"))
