"""Strategies as values: how the workers share what they learn.

A strategy is passed to :func:`gearshift.torch.distribute`, as one of the values below or as text:

=================================  ===========================================================
``"all_reduce"``                   ``AllReduce()``
``"all_reduce:ring"``, …           ``AllReduce("ring")``; any algorithm
``"local_sgd(8)"``                 ``LocalSGD(every=8)``
``"parameter_server"``             ``ParameterServer()``, synchronous (BSP)
``"ps:bsp"``, ``"ps:asp"``,        ``ParameterServer(consistency=...)``; ``parameter_server:...``
``"ps:ssp(3)"``,                   means the same
``"ps:buffered(4)"``,
``"ps:buffered(4, bound=8)"``
``"switch"``                       ``StrategySwitch()``
``"switch(at=100)"``               ``StrategySwitch(policy=At(step=100))``
=================================  ===========================================================

Options stand in parentheses, after what is there already: ``"all_reduce:ring(bucket_mb=8)"``,
``"ps:bsp(shards=1)"``, ``"ps:ssp(3, shards=2)"``. There are ``bucket_mb``, ``compression`` and,
for local SGD, ``outer_lr`` and ``outer_momentum``, for a parameter server ``shards``, ``servers``,
``clip_norm``, ``lr_scaling`` and ``divergence_factor``. A switch has ``start`` and ``then``, ``at``
and ``back`` (a step, or a fraction such as ``0.5``), or ``window`` and ``threshold`` of
:class:`LossPlateau`:
``"switch(start=all_reduce:ring, then=ps:ssp(3), at=0.5, back=0.9)"``. C++ reads the same texts
(``strategy::parse``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from ._policies import At as At
from ._policies import LossPlateau as LossPlateau
from ._policies import Policy as Policy
from ._policies import policy_to_core
from ._strategy_checks import at_least, bucket_size, one_of, positive
from ._strategy_options import Options, number, number_or_auto, whole
from .errors import InvalidArgument

if TYPE_CHECKING:
    from . import _core

Algorithm = Literal[
    "auto", "ring", "recursive_doubling", "rabenseifner", "tree", "hierarchical", "window"
]
LrScaling = Literal["auto", "keep", "divide", "sqrt"]
Compression = Literal["none", "bf16"]


@dataclass(frozen=True)
class BSP:
    """Bulk synchronous: the gradients of all workers are averaged and applied once per step."""

    def __str__(self) -> str:
        return "bsp"


@dataclass(frozen=True)
class SSP:
    """Stale synchronous: applied at once; nobody leads the slowest by more than `s` steps."""

    s: int

    def __post_init__(self) -> None:
        at_least("SSP: s", self.s, 0)

    def __str__(self) -> str:
        return f"ssp({self.s})"


@dataclass(frozen=True)
class ASP:
    """Asynchronous: gradients are applied at once, and nobody waits."""

    def __str__(self) -> str:
        return "asp"


@dataclass(frozen=True)
class Buffered:
    """One update, of their average, for `m` gradients from anyone; at most `bound` steps' lead."""

    m: int
    bound: int | None = None

    def __post_init__(self) -> None:
        at_least("Buffered: m", self.m, 1)
        if self.bound is not None:
            at_least("Buffered: bound", self.bound, 0)

    def __str__(self) -> str:
        return f"buffered({self.m}" + (")" if self.bound is None else f", bound={self.bound})")


Consistency = BSP | SSP | ASP | Buffered


@dataclass(frozen=True)
class AllReduce:
    """Every worker holds a replica and applies its own optimizer to the averaged gradients."""

    algorithm: Algorithm = "auto"
    bucket_mb: float | Literal["auto"] = "auto"
    """Gradients travel in buckets of about so many MiB; "auto": by measured links."""
    compression: Compression = "none"
    """What gradients of float32 travel as: "bf16" halves the bytes, and rounds."""

    def __post_init__(self) -> None:
        one_of("AllReduce: algorithm", self.algorithm, get_args(Algorithm))
        bucket_size("AllReduce: bucket_mb", self.bucket_mb)
        one_of("AllReduce: compression", self.compression, get_args(Compression))

    def _to_core(self) -> _core.AllReduce:
        from . import _core

        return _core.AllReduce(self.algorithm, self.compression)


@dataclass(frozen=True)
class LocalSGD:
    """Every worker trains alone; every so many steps all take over the mean of their parameters.

    The mean is weighted by the samples that each has learnt from since the last time.
    """

    every: int = 8
    """Steps between two rounds."""
    outer_lr: float = 1.0
    """Of the outer optimizer, SGD with Nesterov's momentum, to which what the parameters have lost
    on average since the last round is a gradient: 1 without momentum is the plain mean."""
    outer_momentum: float = 0.0
    """DiLoCo: 0.9, with an outer_lr of 0.7."""
    bucket_mb: float | Literal["auto"] = "auto"
    """Parameters travel in buckets of about so many MiB; "auto": by measured links."""
    compression: Compression = "none"
    """What changes of float32 parameters travel as: "bf16" halves the bytes, and rounds."""

    def __post_init__(self) -> None:
        at_least("LocalSGD: every", self.every, 1)
        positive("LocalSGD: outer_lr", self.outer_lr)
        if not (isinstance(self.outer_momentum, int | float) and 0 <= self.outer_momentum < 1):
            raise InvalidArgument(
                f"LocalSGD: outer_momentum must lie from 0 to below 1, got {self.outer_momentum!r}"
            )
        bucket_size("LocalSGD: bucket_mb", self.bucket_mb)
        one_of("LocalSGD: compression", self.compression, get_args(Compression))

    def _to_core(self) -> _core.LocalSGD:
        from . import _core

        return _core.LocalSGD(self.every, self.outer_lr, self.outer_momentum, self.compression)


@dataclass(frozen=True)
class ParameterServer:
    """Shards own parameters and optimizer state; workers push gradients and get parameters."""

    consistency: Consistency = field(default_factory=BSP)
    shards: int | None = None
    """Shards, in workers 0 … shards-1; None: one in each worker. Not with dedicated servers."""
    servers: int | None = None
    """Dedicated server processes that the job must have; None: whatever it has."""
    clip_norm: float | None = None
    """BSP: global norm that the averaged gradient is clipped to; otherwise each worker's own is."""
    lr_scaling: LrScaling = "auto"
    """Learning rate of a push relative to the one set: "keep", "divide" by N, or by "sqrt"(N);
    "auto" divides for SSP and ASP, where one push is 1/N of a step. Of Adagrad gradients are
    divided, so that the sums of their squares grow as by steps."""
    divergence_factor: float = 10.0
    """Not BSP: a loss of more than so many times the early one, smoothed, is an error; 0: never."""
    bucket_mb: float | Literal["auto"] = "auto"
    """Gradients travel in buckets of about so many MiB; "auto": by measured links."""
    compression: Compression = "none"
    """What gradients of float32 travel to servers as: "bf16" halves the bytes, and rounds."""

    def __post_init__(self) -> None:
        if isinstance(self.consistency, str):
            object.__setattr__(self, "consistency", parse_consistency(self.consistency))
        if not isinstance(self.consistency, BSP | SSP | ASP | Buffered):
            raise InvalidArgument(
                f"ParameterServer: consistency {self.consistency!r} is none of BSP(), SSP(s), "
                "ASP(), Buffered(m)"
            )
        if self.shards is not None:
            at_least("ParameterServer: shards", self.shards, 1)
        if self.servers is not None:
            at_least("ParameterServer: servers", self.servers, 0)
        if self.clip_norm is not None:
            positive("ParameterServer: clip_norm", self.clip_norm)
        one_of("ParameterServer: lr_scaling", self.lr_scaling, ("auto", "keep", "divide", "sqrt"))
        bucket_size("ParameterServer: bucket_mb", self.bucket_mb)
        one_of("ParameterServer: compression", self.compression, get_args(Compression))
        if not self.divergence_factor >= 0:
            raise InvalidArgument("ParameterServer: divergence_factor must not be negative")

    def _to_core(self) -> _core.ParameterServer:
        from . import _core

        return _core.ParameterServer(
            consistency=str(self.consistency),
            shards=self.shards or 0,
            servers=-1 if self.servers is None else self.servers,
            clip_norm=self.clip_norm or 0.0,
            lr_scaling=self.lr_scaling,
            divergence_factor=self.divergence_factor,
            compression=self.compression,
        )


Phase = AllReduce | LocalSGD | ParameterServer


@dataclass(frozen=True)
class StrategySwitch:
    """Starts with one strategy and goes over to another, in memory, when `policy` says so.

    With `back` it returns when that fires, and so on, any number of times.
    """

    start: Phase = field(default_factory=AllReduce)
    then: Phase = field(default_factory=lambda: ParameterServer(ASP()))
    policy: Policy = field(default_factory=LossPlateau)
    back: Policy | None = None

    def __post_init__(self) -> None:
        for name in ("start", "then"):
            phase = parse(getattr(self, name))
            if isinstance(phase, StrategySwitch):
                raise InvalidArgument(f"StrategySwitch: {name} cannot be a switch itself")
            object.__setattr__(self, name, phase)
        if type(self.start) is type(self.then):
            raise InvalidArgument(
                "StrategySwitch: goes from one of AllReduce, LocalSGD and ParameterServer to "
                f"another, not from {self.start!r} to {self.then!r}"
            )
        for name in ("policy", "back"):
            policy = getattr(self, name)
            if policy in (LossPlateau, At):
                raise InvalidArgument(
                    f"StrategySwitch: {name} is the class {policy.__name__}; make one of it: "
                    f"{policy.__name__}(...)"
                )
            if not callable(getattr(policy, "_to_core", policy)) and policy is not None:
                raise InvalidArgument(f"StrategySwitch: {name} {policy!r} cannot be called")
        if self.policy is None:
            raise InvalidArgument("StrategySwitch: needs a policy")
        self._check_order()

    def _check_order(self) -> None:
        """At looks at one step: one that is over when the other comes never does."""
        if not isinstance(self.policy, At) or not isinstance(self.back, At):
            return
        for what in ("step", "fraction"):
            there, back = getattr(self.policy, what), getattr(self.back, what)
            if there is not None and back is not None and back <= there:
                raise InvalidArgument(
                    f"StrategySwitch: back at {what} {back} would never happen: it must come after "
                    f"the switch at {what} {there}"
                )

    def _to_core(self) -> _core.StrategySwitch:
        from . import _core

        return _core.StrategySwitch(
            start=self.start._to_core(),
            then=self.then._to_core(),
            policy=policy_to_core(self.policy),
            back=None if self.back is None else policy_to_core(self.back),
        )


Strategy = AllReduce | LocalSGD | ParameterServer | StrategySwitch


def parse(strategy: Strategy | str) -> Strategy:
    """A strategy from its text (see the module's table); values pass through.

    Raises:
        InvalidArgument: for anything else; the message lists what there is.
    """
    if isinstance(strategy, Strategy):
        return strategy
    text = strategy.strip().lower() if isinstance(strategy, str) else ""
    text = re.sub(r"(?<=[a-z])-(?=[a-z])", "_", text)
    match = re.fullmatch(r"(\w+)(?::(\w*))?(?:\((.*)\))?", text, re.DOTALL)
    name, variant, inside = match.groups() if match else ("", None, None)
    if name == "all_reduce" and variant != "":
        return _parse_all_reduce(variant or "auto", Options("all_reduce", inside))
    if name == "local_sgd" and variant is None:
        return _parse_local(Options("local_sgd", inside))
    if name in ("ps", "parameter_server"):
        return _parse_server(variant, Options("parameter_server", inside))
    if name in ("switch", "strategy_switch") and variant is None:
        return _parse_switch(Options("switch", inside))
    raise InvalidArgument(
        f"strategy {strategy!r} is none of 'all_reduce', 'all_reduce:ring', 'local_sgd(8)', "
        "'parameter_server', 'ps:bsp', 'ps:asp', 'ps:ssp(3)', 'ps:buffered(4)', 'switch', and no "
        "AllReduce, LocalSGD, ParameterServer or StrategySwitch value"
    )


def _when(text: str) -> At:
    """A step, or a fraction of all."""
    return At(step=whole(text)) if text.isdecimal() else At(fraction=number(text))


def _parse_all_reduce(algorithm: str, given: Options) -> AllReduce:
    options = given.take(bucket_mb=number_or_auto, compression=str)
    given.refuse_rest()
    return AllReduce(algorithm, **options)  # type: ignore[arg-type]


def _parse_local(given: Options) -> LocalSGD:
    options = given.take(
        every=whole,
        outer_lr=number,
        outer_momentum=number,
        bucket_mb=number_or_auto,
        compression=str,
    )
    rest = given.rest()
    if len(rest) == 1 and "every" not in options:
        try:
            options["every"] = whole(rest[0])
        except ValueError as error:
            raise InvalidArgument(f"local_sgd: {rest[0]} is no {error}") from error
    else:
        given.refuse_rest()
    return LocalSGD(**options)


def _parse_server(variant: str | None, given: Options) -> ParameterServer:
    options = given.take(
        shards=whole,
        servers=whole,
        bucket_mb=number_or_auto,
        clip_norm=number,
        lr_scaling=str,
        divergence_factor=number,
        compression=str,
    )
    if variant is None:
        given.refuse_rest()
        return ParameterServer(**options)
    inside = given.rest(but=("bound",))
    consistency = parse_consistency(variant + (f"({', '.join(inside)})" if inside else ""))
    return ParameterServer(consistency, **options)


def _parse_switch(given: Options) -> StrategySwitch:
    options = given.take(start=parse, then=parse, at=_when, back=_when)
    plateau = given.take(window=whole, threshold=number)
    given.refuse_rest()
    if "at" in options and plateau:
        raise InvalidArgument("switch: give either at= or window= and threshold=")
    options["policy"] = options.pop("at", None) or LossPlateau(**plateau)
    return StrategySwitch(**options)


def to_text(strategy: Strategy) -> str:
    """The text of a strategy, as :func:`parse` takes it; policies that have none are left out."""
    if isinstance(strategy, StrategySwitch):
        return _switch_text(strategy)
    if isinstance(strategy, AllReduce):
        text = "all_reduce" + ("" if strategy.algorithm == "auto" else f":{strategy.algorithm}")
        return _with_options(text, _changed(strategy, "bucket_mb", "compression"))
    if isinstance(strategy, LocalSGD):
        more = _changed(strategy, "outer_lr", "outer_momentum", "bucket_mb", "compression")
        return _with_options(f"local_sgd({strategy.every})", more)
    own = ("shards", "servers", "bucket_mb", "clip_norm", "lr_scaling", "divergence_factor")
    return _with_options(f"ps:{strategy.consistency}", _changed(strategy, *own, "compression"))


def _changed(value: Any, *keys: str) -> list[str]:
    """`key=value` of the fields that are not as by default."""
    defaults = {f.name: f.default for f in fields(value)}
    given = {key: getattr(value, key) for key in keys}
    return [f"{key}={_shown(v)}" for key, v in given.items() if v != defaults[key]]


def _shown(value: Any) -> str:
    """Shortly, if that is the same number."""
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return repr(value) if isinstance(value, float) and float(short) != value else short


def _with_options(text: str, options: list[str]) -> str:
    if not options:
        return text
    open_ = text.removesuffix(")")
    return f"{open_}{'(' if open_ == text else ', '}{', '.join(options)})"


def _switch_text(strategy: StrategySwitch) -> str:
    ends, usual = (strategy.start, strategy.then), StrategySwitch()
    policy, back = strategy.policy, strategy.back
    if not isinstance(policy, At | LossPlateau) or not isinstance(back, At | None):
        return f"switch {to_text(ends[0])} -> {to_text(ends[1])}"
    options = [] if ends[0] == usual.start else [f"start={to_text(ends[0])}"]
    options += [] if ends[1] == usual.then else [f"then={to_text(ends[1])}"]
    if isinstance(policy, LossPlateau):
        options += _changed(policy, "window", "threshold")
    else:
        options.append(f"at={_when_text(policy)}")
    options += [] if back is None else [f"back={_when_text(back)}"]
    return _with_options("switch", options)


def _when_text(at: At) -> str:
    return str(at.step) if at.fraction is None else _shown(at.fraction)


def parse_consistency(text: str) -> Consistency:
    """A consistency from its text: bsp, asp, ssp(s), buffered(m), buffered(m, bound=b)."""
    count = "([0-9]{1,9})"
    pattern = rf"(bsp)|(asp)|ssp\({count}\)|buffered\({count}(?:,\s*(?:bound\s*=\s*)?{count})?\)"
    match = re.fullmatch(pattern, text.strip().lower())
    if match is None:
        raise InvalidArgument(
            f"consistency {text!r} is none of bsp, asp, ssp(s), buffered(m), buffered(m, bound=b)"
        )
    bsp, asp, s, m, bound = match.groups()
    if bsp:
        return BSP()
    if asp:
        return ASP()
    if s is not None:
        return SSP(int(s))
    return Buffered(int(m), None if bound is None else int(bound))


def phases(strategy: Strategy) -> tuple[Phase, ...]:
    """What it consists of: itself, or the two phases of a switch."""
    if isinstance(strategy, StrategySwitch):
        return strategy.start, strategy.then
    return (strategy,)


def uses_server(strategy: Strategy) -> bool:
    """Whether a parameter server is part of it."""
    return any(isinstance(phase, ParameterServer) for phase in phases(strategy))


def uses_local(strategy: Strategy) -> bool:
    """Whether local SGD is part of it."""
    return any(isinstance(phase, LocalSGD) for phase in phases(strategy))


def is_asynchronous(strategy: Strategy) -> bool:
    """Whether it has servers that do not wait for the gradients of all workers."""
    servers = (phase for phase in phases(strategy) if isinstance(phase, ParameterServer))
    return any(not isinstance(server.consistency, BSP) for server in servers)


def needs_losses(strategy: Strategy) -> bool:
    """Whether it switches by the losses of epochs."""
    return isinstance(strategy, StrategySwitch) and any(
        isinstance(policy, LossPlateau) for policy in (strategy.policy, strategy.back)
    )


def bucket_bytes(strategy: Strategy) -> int | None:
    """Size of a bucket, None: by measured links; a switch keeps the buckets of its start."""
    first = phases(strategy)[0]
    return None if isinstance(first.bucket_mb, str) else int(first.bucket_mb * (1 << 20))


def to_core(strategy: Strategy, total_steps: int | None) -> _core.Strategy:
    """The core's form of a strategy."""
    from . import _core

    return _core.Strategy(strategy._to_core(), bucket_bytes(strategy), total_steps or 0)
