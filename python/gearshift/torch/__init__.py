"""gearshift for PyTorch: distribute a model and its optimizer over the workers of the job.

::

    import gearshift as gs, gearshift.torch as gst

    gs.init()
    model, optimizer = gst.distribute(model, optimizer, strategy="all_reduce")
    sampler = gst.DistributedSampler(dataset)
    loader = DataLoader(dataset, batch_size=64, sampler=sampler)
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        for x, y in loader:
            loss = loss_function(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step(loss=loss)

The model stays the object that it was, and the optimizer stays a ``torch.optim.Optimizer``: LR
schedulers, ``GradScaler``, ``state_dict`` and checkpoints work as before.

Nothing here is thread-safe: use a model from one thread at a time.
"""

from __future__ import annotations

from ._control import clip_grad_norm_, join, no_sync, release, samples, stats
from ._distribute import distribute
from ._objects import broadcast_object, zeros
from ._profile import Profile, profile
from ._sampler import DistributedSampler
from ._simulated import SimulatedTraining
from ._through import all_reduce, concat_all_gather

__all__ = [
    "DistributedSampler",
    "Profile",
    "SimulatedTraining",
    "all_reduce",
    "broadcast_object",
    "clip_grad_norm_",
    "concat_all_gather",
    "distribute",
    "join",
    "no_sync",
    "profile",
    "release",
    "samples",
    "stats",
    "zeros",
]
