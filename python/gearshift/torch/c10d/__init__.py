"""A backend for ``torch.distributed``: scripts that use DDP, FSDP or its collectives keep them.

::

    import torch.distributed as dist
    import gearshift.torch.c10d

    dist.init_process_group("gearshift")
    model = torch.nn.parallel.DistributedDataParallel(model)

Importing this module registers the backend; it needs no build against PyTorch. Everything else is
as ever: torchrun (or whoever sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT), ``init_method``,
subgroups, asynchronous operations. Under ``gearshift run``, and under mpirun and srun where RANK is
not set, any backend finds the job as :func:`gearshift.init` does. ``init_method="gearshift://"``
asks for that everywhere.

What changes is who moves the bytes: shared memory and gearshift's collectives instead of Gloo. And
failures are detected: a rank that dies or freezes is an error on every other one that names it,
within GEARSHIFT_TIMEOUT (30 s), and not only when the ``timeout`` of the process group has passed.

Tensors are on the CPU, dense, of any dtype and layout. Sums, means, minima, maxima and products of
float64, float32, float16, bfloat16, int8, uint8, int32 and int64 are reduced on the way; other
dtypes, and bitwise operations, are gathered and reduced by every rank. Results are the same bits on
all ranks.

Not supported, and refused with an error: tensors on accelerators, sparse tensors, ``PREMUL_SUM``.

Environment: GEARSHIFT_TIMEOUT, GEARSHIFT_TRANSPORTS, GEARSHIFT_INTERFACE as in docs/jobs.md; a
GEARSHIFT_TOKEN, if set, must be the same in all processes. Without one, rank 0 draws a token and
leaves it in the process group's store.

Thread-safety: as torch.distributed demands: all ranks of a group call the same operations in the
same order.
"""

from __future__ import annotations

from torch.distributed import Backend, register_rendezvous_handler

from ._group import GearshiftProcessGroup, create
from ._rendezvous import SCHEME, attend_stores, stores, widen_env

BACKEND = "gearshift"
"""What to pass to ``init_process_group`` and ``new_group``."""

if BACKEND.upper() not in Backend._plugins:
    Backend.register_backend(BACKEND, create, extended_api=True, devices=["cpu"])
    register_rendezvous_handler(SCHEME, stores)
    widen_env()
    attend_stores()

__all__ = ["BACKEND", "GearshiftProcessGroup"]
