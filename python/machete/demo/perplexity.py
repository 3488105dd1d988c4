"""How well a model foretells a text."""

import math
from typing import Any

import torch
from torch import Tensor, nn

WINDOW = 1024  # tokens; each is foretold from those before it in its window


def windows(tokens: Tensor, most: int | None = None) -> list[Tensor]:
    """Token ids [T] cut into batches of one, [1, WINDOW], the last shorter; at most `most` tokens."""
    tokens = tokens[:most]
    return [piece[None] for piece in tokens.split(WINDOW) if piece.numel() > 1]


@torch.no_grad()
def perplexity(model: Any, batches: list[Tensor], head: Tensor) -> float:
    """exp of the mean negative log likelihood a token. Logits are computed in fp32, `head` is [vocabulary, hidden]."""
    loss, count = 0.0, 0
    for batch in batches:
        ids = batch.to(head.device)
        hidden = model.get_decoder()(ids, use_cache=False).last_hidden_state[0, :-1]  # [T - 1, hidden]
        logits = nn.functional.linear(hidden.float(), head)
        loss += nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        count += ids.shape[1] - 1
    return math.exp(loss / count)
