"""Collectives against NumPy in float64. Every rank knows every rank's data, by its seed."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from gearshift_testing import case

import gearshift as gs

WORLDS = range(1, 9)
DTYPES = ("float64", "float32", "float16", "int8", "uint8", "int32", "int64")
OPS = ("sum", "mean", "min", "max", "product")
SIZES = (0, 1, 7, 1000)
LARGE = 1_000_003


@functools.cache
def small_integers(rank: int, size: int, low: int, op: str) -> np.ndarray:
    """From `low` to 12."""
    rng = np.random.default_rng([rank, size, len(op)])
    return rng.integers(low, 13, size, dtype=np.int8)


def values(rank: int, size: int, dtype: str, op: str) -> np.ndarray:
    """Data of a rank: such that results are exact in every dtype, whatever the order."""
    if op == "product":
        rng = np.random.default_rng([rank, size, len(op)])
        choice = rng.choice([1, 2] if np.dtype(dtype).kind in "iu" else [0.5, 1, 2], size)
        return choice.astype(dtype) if rank < 6 else np.ones(size, dtype)
    return small_integers(rank, size, 0 if dtype == "uint8" else -12, op).astype(dtype)


@functools.cache
def _reduced(size: int, dtype: str, op: str) -> np.ndarray:
    everyone = np.stack(
        [values(r, size, dtype, op).astype(np.float64) for r in range(gs.world_size())]
    )
    if op == "mean":
        return everyone.sum(0) / gs.world_size()
    reduce = {"sum": np.add, "min": np.minimum, "max": np.maximum, "product": np.multiply}[op]
    return reduce.reduce(everyone, axis=0)


def reference(size: int, dtype: str, op: str) -> np.ndarray:
    """The reduction of all ranks' data, in float64."""
    integer = np.dtype(dtype).kind in "iu"
    # Data is the same in all dtypes but for signs, and halves in products (see `values`).
    alike = dtype if dtype == "uint8" or op == "product" else "float64"
    reduced = _reduced(size, alike, op)
    return np.trunc(reduced) if op == "mean" and integer else reduced


_turn = itertools.count()


def views(data: np.ndarray) -> Iterator[np.ndarray]:
    """The same contents aligned, unaligned, and strided; one after another in large worlds."""
    memory = np.zeros(data.nbytes + 1, dtype=np.uint8)
    unaligned = memory[1:].view(data.dtype) if data.size else data.copy()
    unaligned[...] = data
    strided = np.zeros((data.size, 2), dtype=data.dtype)[:, 1]
    strided[...] = data
    kinds = [data.copy(), unaligned, strided]
    yield from kinds if gs.world_size() <= 4 else [kinds[next(_turn) % 3]]


def expect(got: np.ndarray, wanted: np.ndarray, what: str) -> None:
    exact = wanted.astype(got.dtype)
    if not np.array_equal(got, exact):  # as it mostly is, and quickly found out
        rtol = 2e-3 if got.dtype == np.float16 else 1e-6
        np.testing.assert_allclose(
            got.astype(np.float64), exact.astype(np.float64), rtol=rtol, err_msg=what
        )


@case(WORLDS)
def all_reduce() -> None:
    for dtype in DTYPES:
        for op in OPS:
            for size in SIZES:
                wanted = reference(size, dtype, op)
                for i, x in enumerate(views(values(gs.rank(), size, dtype, op))):
                    assert gs.all_reduce(x, op) is x
                    expect(x, wanted, f"{dtype} {op} {size} view {i}")


@case(WORLDS)
def all_reduce_large() -> None:
    for dtype in DTYPES if gs.world_size() <= 4 else ("float32", "int8"):
        x = values(gs.rank(), LARGE, dtype, "sum")
        memory = np.zeros(x.nbytes + 1, dtype=np.uint8)
        unaligned = memory[1:].view(dtype)
        unaligned[...] = x
        wanted = reference(LARGE, dtype, "sum")
        expect(gs.all_reduce(x), wanted, dtype)
        expect(gs.all_reduce(unaligned), wanted, f"{dtype} unaligned")


@case(WORLDS)
def all_reduce_in_shared_arrays() -> None:
    for dtype in DTYPES:
        for size in (0, 1, 7, 50_003):
            shared = gs.zeros((size, 2), dtype)
            assert shared.dtype == dtype
            assert shared.shape == (size, 2)
            assert not shared.any()
            shared[...] = values(gs.rank(), 2 * size, dtype, "sum").reshape(size, 2)
            wanted = reference(2 * size, dtype, "sum").reshape(size, 2)
            assert gs.all_reduce(shared) is shared
            expect(shared, wanted, f"{dtype} {size}")
            gs.barrier()
    some = gs.zeros(40_000)
    some[5:39_000] = gs.rank()  # a part of the array, unaligned to anything
    gs.all_reduce(some[5:39_000], "max")
    assert some[5:39_000].tolist() == [gs.world_size() - 1] * 38_995
    assert not some[:5].any()
    mixed = gs.zeros(40_000)  # some ranks reduce it, others an array of their own
    x = np.zeros(40_000, "float32") if gs.rank() % 2 else mixed
    x[...] = 1
    expect(gs.all_reduce(x), np.full(40_000, gs.world_size()), "mixed")
    with pytest.raises(TypeError, match="complex"):
        gs.zeros(3, complex)


@case(WORLDS)
def all_reduce_of_real_numbers_is_close_and_equal_everywhere() -> None:
    for dtype, tolerance in (("float64", 1e-14), ("float32", 1e-6), ("float16", 8e-3)):
        everyone = [
            np.random.default_rng(r).normal(size=4099).astype(dtype) for r in range(gs.world_size())
        ]
        x = gs.all_reduce(everyone[gs.rank()].copy(), "mean")
        wanted = np.mean(np.stack(everyone).astype(np.float64), axis=0)
        np.testing.assert_allclose(x.astype(np.float64), wanted, rtol=tolerance, atol=tolerance)
        first = gs.broadcast(x.copy())
        assert x.tobytes() == first.tobytes()


@case(WORLDS)
def reduce_scatter() -> None:
    rank, n = gs.rank(), gs.world_size()
    for dtype in DTYPES:
        for op in OPS:
            for size in SIZES:
                wanted = np.array_split(reference(size, dtype, op), n)[rank]
                for i, x in enumerate(views(values(rank, size, dtype, op))):
                    before = x.copy()
                    expect(gs.reduce_scatter(x, op), wanted, f"{dtype} {op} {size} view {i}")
                    np.testing.assert_array_equal(x, before)
    x = np.arange(n * 6, dtype=np.float64).reshape(2 * n, 3)
    part = gs.reduce_scatter(x + rank)
    np.testing.assert_array_equal(part, (x * n + n * (n - 1) / 2)[2 * rank : 2 * rank + 2])


@case(WORLDS)
def reduce_scatter_large() -> None:
    wanted = np.array_split(reference(LARGE, "float32", "sum"), gs.world_size())[gs.rank()]
    expect(gs.reduce_scatter(values(gs.rank(), LARGE, "float32", "sum")), wanted, "large")


@case(WORLDS)
def all_gather() -> None:
    rank, n = gs.rank(), gs.world_size()
    for dtype in DTYPES:
        for size in (*SIZES, LARGE if dtype == "float32" else 3):
            wanted = np.stack([values(r, size, dtype, "sum") for r in range(n)])
            for x in views(values(rank, size, dtype, "sum")):
                np.testing.assert_array_equal(gs.all_gather(x), wanted)
            out = np.zeros((n, size, 2), dtype=dtype)[:, :, 0]
            assert gs.all_gather(values(rank, size, dtype, "sum"), out=out) is out
            np.testing.assert_array_equal(out, wanted)
    assert gs.all_gather(np.array(rank)).tolist() == list(range(n))


@case(WORLDS)
def broadcast() -> None:
    rank, n = gs.rank(), gs.world_size()
    for root in range(n):
        for dtype in DTYPES:
            for size in (*SIZES, LARGE if dtype == "int64" and root == n - 1 else 3):
                wanted = values(root, size, dtype, "sum")
                for x in views(values(rank, size, dtype, "sum")):
                    assert gs.broadcast(x, root) is x
                    np.testing.assert_array_equal(x, wanted)


@case(WORLDS)
def all_to_all() -> None:
    rank, n = gs.rank(), gs.world_size()
    for dtype in DTYPES:
        for block in (*SIZES, LARGE // n if dtype == "float32" else 3):
            everyone = [values(r, n * block, dtype, "sum").reshape(n, block) for r in range(n)]
            wanted = np.stack([everyone[r][rank] for r in range(n)])
            np.testing.assert_array_equal(gs.all_to_all(everyone[rank]), wanted)
            turned = np.asfortranarray(everyone[rank])
            np.testing.assert_array_equal(gs.all_to_all(turned), wanted)


@case([n for n in WORLDS if n > 1])
def send_and_receive_around_the_ring() -> None:
    rank, n = gs.rank(), gs.world_size()
    after, before = (rank + 1) % n, (rank - 1) % n
    for dtype in DTYPES:
        for size in (*SIZES, LARGE if dtype == "float32" else 3):
            for x in views(np.zeros(size, dtype)):
                if rank == 0:
                    gs.send(values(rank, size, dtype, "sum"), after)
                    assert gs.recv(x, before) is x
                else:
                    gs.recv(x, before)
                    gs.send(values(rank, size, dtype, "sum"), after)
                np.testing.assert_array_equal(x, values(before, size, dtype, "sum"))


@case([1, 3])
def what_only_moves_may_be_of_any_dtype() -> None:
    rank, n = gs.rank(), gs.world_size()
    for dtype in ("bool", "int16", "uint64", "complex64", "datetime64[s]", "S5"):
        everyone = [np.arange(r, r + 3 * n).astype(dtype).reshape(n, 3) for r in range(n)]
        mine = everyone[rank]
        np.testing.assert_array_equal(gs.all_gather(mine), np.stack(everyone))
        swapped = np.stack([everyone[r][rank] for r in range(n)])
        np.testing.assert_array_equal(gs.all_to_all(mine), swapped)
        np.testing.assert_array_equal(gs.broadcast(mine.copy(), n - 1), everyone[n - 1])
    with pytest.raises(TypeError, match="object"):
        gs.broadcast(np.array([None]))


@case([1, 3])
def numbers_of_numpy_are_ranks_and_extents() -> None:
    last = np.int64(gs.world_size() - 1)
    x = gs.zeros(np.int32(3), "int64")
    assert gs.broadcast(x + gs.rank(), root=last).tolist() == [last] * 3
    assert gs.zeros((np.int64(2), 3)).shape == (2, 3)
    for root in (True, 1.0, None, -1, np.int64(99)):
        with pytest.raises(gs.InvalidArgument, match="root"):
            gs.broadcast(x, root)
    for shape in (-1, (2, -3), (-2, -3), 2**62):
        with pytest.raises(gs.InvalidArgument):
            gs.zeros(shape)


@case([1, 3])
def what_cannot_be_reduced_is_refused_on_every_rank() -> None:
    for bad in (np.zeros(3, complex), np.zeros(3, bool), np.zeros(3, ">f4"), [1.0], 3.0, None):
        with pytest.raises(TypeError, match=r"type|array"):
            gs.all_reduce(bad)
        with pytest.raises(TypeError, match=r"type|array"):
            gs.reduce_scatter(bad)
    read_only = np.zeros(3)
    read_only.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        gs.all_reduce(read_only)
    for call in (
        lambda: gs.all_reduce(np.zeros(3), "median"),
        lambda: gs.broadcast(np.zeros(3), gs.world_size()),
        lambda: gs.send(np.zeros(3), gs.rank()),
        lambda: gs.all_to_all(np.zeros(())),
        lambda: gs.all_gather(np.zeros(3), out=np.zeros(3)),
    ):
        with pytest.raises(gs.InvalidArgument):
            call()
    assert gs.all_reduce(np.ones(2)).tolist() == [gs.world_size()] * 2  # all is well still


@case([2])
def objects_with_an_array_interface_are_arrays() -> None:
    class Wrapped:
        def __init__(self, array: np.ndarray) -> None:
            self.array = array

        @property
        def __array_interface__(self) -> dict:
            return self.array.__array_interface__

    class Lent:
        def __init__(self, array: np.ndarray) -> None:
            self.array = array

        def __dlpack__(self, **options: object) -> object:
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self) -> tuple:
            return self.array.__dlpack_device__()

    for kind in (Wrapped, Lent):
        x = np.full(3, gs.rank() + 1.0)
        gs.all_reduce(kind(x))
        assert x.tolist() == [3.0] * 3
