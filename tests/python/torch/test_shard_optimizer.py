"""Update rules of shards that are torch's own."""

from __future__ import annotations

import pytest
import torch

from gearshift.torch._shard_optimizer import ShardOptimizer


class Summing(torch.optim.Adagrad):
    """One that is not Adagrad itself."""


@pytest.mark.parametrize(("cls", "scaled"), [(Summing, "gradient"), (torch.optim.RMSprop, "rate")])
def test_a_push_counts_its_share(cls, scaled):
    own = torch.nn.Parameter(torch.linspace(-1, 1, 5))
    memory = own.detach().clone()
    decay = 0.1
    share = {"lr": 0.5 * 0.25} if scaled == "rate" else {"lr": 0.5}
    expected = cls([own], weight_decay=decay if scaled == "rate" else 0, **share)
    rule = ShardOptimizer(cls, ["lr", "weight_decay"], 1, [("float32", [(0, 0, 5)])])
    for step in range(4):
        gradient = torch.sin(torch.arange(5.0) + step)
        rule.apply([(0, 0, memory.data_ptr(), gradient.data_ptr())], [0.5, decay], 0.25)
        own.grad = gradient.clone()
        if scaled == "gradient":
            own.grad = 0.25 * (gradient + decay * own.detach())
        expected.step()
        torch.testing.assert_close(memory, own.detach())
        assert torch.equal(gradient, torch.sin(torch.arange(5.0) + step))  # a worker's own memory
