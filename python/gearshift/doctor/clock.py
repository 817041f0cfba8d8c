"""The clock that everything is timed with."""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass
from pathlib import Path

from .finding import Finding, ok, warning

_SLOW = ("hpet", "acpi_pm", "jiffies", "refined-jiffies", "pit")
_SLOW_READING = 2e-6
_READINGS = 2000
_UNSYNCHRONISED = 0x40
_TIMEX_BYTES = 256
_STATUS_OFFSET = 5 * 8  # modes, then offset, freq, maxerror and esterror, each a long


@dataclass(frozen=True)
class Clock:
    """Of this machine."""

    source: str
    """Empty: unknown."""
    reading: float
    """Seconds that a look at it takes, with what Python adds."""
    synchronised: bool | None

    @staticmethod
    def collect() -> Clock:
        file = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
        try:
            source = file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            source = ""
        return Clock(source, _time_of_reading(), _synchronised())


def check(clock: Clock) -> Finding:
    found = f"{clock.source or 'unknown source'}, {1e9 * clock.reading:.0f} ns to read"
    if clock.synchronised is not None:
        found += ", synchronised" if clock.synchronised else ", not synchronised with others"
    if clock.source in _SLOW or clock.reading > _SLOW_READING:
        return warning(
            "clock",
            found,
            "each message and each wait looks at it several times; a clock outside of the "
            "processor costs a microsecond and more",
            "see dmesg for why the kernel distrusts the processor's (tsc); virtual machines: use "
            "kvm-clock or an invariant TSC",
        )
    return ok("clock", found)


def _time_of_reading() -> float:
    fastest = float("inf")
    for _ in range(3):
        begin = time.perf_counter()
        for _ in range(_READINGS):
            time.monotonic()
        fastest = min(fastest, (time.perf_counter() - begin) / _READINGS)
    return fastest


def _synchronised() -> bool | None:
    """What the kernel was told by NTP or PTP; None where that cannot be asked."""
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)  # modes 0: nothing is changed
    try:
        if ctypes.CDLL(None).adjtimex(buffer) < 0:
            return None
    except AttributeError:
        return None
    status = int.from_bytes(buffer.raw[_STATUS_OFFSET : _STATUS_OFFSET + 4], "little")
    return not status & _UNSYNCHRONISED
