"""What a job tells of itself: statistics, and switches."""

from __future__ import annotations

import logging
from typing import Any

from .._core import Stats, SwitchRecord

_log = logging.getLogger("gearshift")


def statistics(stats: Stats) -> dict[str, Any]:
    """See gst.stats."""
    names = (
        "strategy",
        "step",
        "loss",
        "bytes_sent",
        "bytes_received",
        "mean_staleness",
        "max_staleness",
        "pushes",
        "max_lead",
        "shard_applies",
        "exposed_seconds",
        "communication_seconds",
    )
    result = {name: getattr(stats, name) for name in names}
    result["switches"] = [_describe(record) for record in stats.switches]
    return result


def _describe(record: SwitchRecord) -> dict[str, Any]:
    return {
        "step": record.step,
        "from": record.before,
        "to": record.after,
        "policy": record.policy,
        "inputs": record.inputs,
        "seconds": record.seconds,
        "bytes_moved": record.bytes_moved,
        "parameter_hash": f"{record.parameter_hash:016x}",
    }


def log_switch(record: SwitchRecord) -> None:
    """Say that the strategy has changed."""
    _log.info(
        "switched from %s to %s after step %d in %.3f s (%s: %s)",
        record.before,
        record.after,
        record.step,
        record.seconds,
        record.policy,
        record.inputs,
    )
