"""Runs the processes of one node from start to end."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from . import LaunchError
from .output import LineSink, LogFiles, Stream
from .plan import ProcessSpec
from .process import RankProcess
from .teller import Teller
from .verdict import Outcome, cause, judge, names, signal_name
from .warden import Warden

_CHUNK = 1 << 16
_TICK = 0.25
_TERM_SECONDS = 5.0
_FROZEN_SECONDS = 1.0
_DRAIN_SECONDS = 2.0
_LEAVING_SECONDS = 3.0
"""Ranks that are done leave a job together, give or take."""
_LINGERING_SECONDS = 5.0
"""For ranks of other hosts that look for a rendezvous which rank 0 does not serve any more."""
_LOST_KEY = "lost"
"""In the rendezvous; see src/runtime/arrival.h. The file of a plain key bears its name."""
_TELL_WHO_STAYS = 5.0
"""Seconds from a signal to a word about those that have not ended."""
_TWICE: dict[int, float] = {signal.SIGINT: 0.0, signal.SIGTERM: 1.0, signal.SIGHUP: 1.0}
"""Signals that ask a job to end, of which the second kills, and seconds before which it is the
first again: `timeout` sends SIGTERM to its child and then to the whole group."""
ENDING = tuple(_TWICE)
"""Signals that ask a job to end."""


class Job:
    """Starts processes, passes their output on, forwards signals, and ends all when one fails.

    Use from the main thread (it handles signals), once.

    Args:
        specs: the processes to start.
        sink: where their lines go.
        notify: takes the launcher's own messages.
        grace: seconds between the first failure and SIGTERM for those that still run.
        farewell: seconds to end after a signal that asks the job to, before SIGKILL.
        log_dir: folder for rank-N.log files.
        directory: of the rendezvous; removed at the end, even if the launcher is killed.
        elsewhere: whether other nodes have ranks of the job, too.
        on_ready: called once signals are handled.
    """

    def __init__(
        self,
        specs: Sequence[ProcessSpec],
        *,
        sink: LineSink,
        notify: Callable[[str], None],
        grace: float,
        farewell: float,
        log_dir: Path | None = None,
        directory: str | None = None,
        elsewhere: bool = False,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._specs = specs
        self._sink = sink
        self._notify = notify
        self._grace = grace
        self._farewell = farewell
        self._logs = LogFiles(log_dir, notify) if log_dir is not None else None
        self._directory = directory
        self._elsewhere = elsewhere
        self._on_ready = on_ready
        self.nobody_came = False
        """Whether no process came to the rendezvous in the directory."""
        self._teller: Teller | None = None
        self._told_store = False
        self._ranks: list[RankProcess] = []
        self._selector = selectors.DefaultSelector()
        self._started = time.monotonic()
        self._all_started = False
        self._early_signals: list[int] = []
        self._interrupt: tuple[int, float] | None = None
        self._heard: dict[int, float] = {}
        """When a signal that asks the job to end came first."""
        self._told_who_stays = self._killed_who_stays = False
        self._term_at: float | None = None
        self._kill_at: float | None = None
        self._stopped_since: float | None = None

    def run(self) -> Outcome:
        """Start everything, wait for the end of everything, and say how it went.

        Raises:
            LaunchError: when a process cannot be started; those already started are ended.
        """
        warden = Warden(self._directory)
        try:
            with self._signals():
                self._on_ready()
                self._start(warden)
                while self._busy():
                    self._pass_output_on(self._selector.select(_TICK))
                    self._reap(warden)
                    self._escalate(time.monotonic())
                self.nobody_came = self._is_empty()
        finally:
            for rank in self._ranks:
                rank.kill()
            self._selector.close()
            if self._teller is not None:
                self._teller.finish(_LINGERING_SECONDS if self._elsewhere else 0.0)
            warden.dismiss()
        return judge(self._ranks, self._started, self._grace, self._interrupt)

    def _start(self, warden: Warden) -> None:
        for spec in self._specs:
            try:
                rank = RankProcess(spec)
            except (OSError, subprocess.SubprocessError) as error:
                raise LaunchError(
                    f"cannot start {spec.name} ({spec.command[0]}): {error}"
                ) from error
            warden.watch(rank.pid)
            self._ranks.append(rank)
            if self._logs is not None:
                self._logs.start(spec.rank)
            for stream, descriptor in rank.streams.items():
                self._selector.register(descriptor, selectors.EVENT_READ, (rank, stream))
        self._all_started = True
        for number in self._early_signals:
            self._forward(number)

    def _busy(self) -> bool:
        return any(rank.running or rank.streams for rank in self._ranks)

    # Output

    def _pass_output_on(self, ready: list[tuple[selectors.SelectorKey, int]]) -> None:
        for key, _ in ready:
            if key.data is None:  # a signal arrived; its handler has run
                with contextlib.suppress(BlockingIOError):
                    os.read(key.fd, _CHUNK)
            else:
                self._read(*key.data)
        self._give_up_on_orphaned_pipes(time.monotonic())

    def _read(self, rank: RankProcess, stream: Stream) -> None:
        try:
            data = os.read(rank.streams[stream], _CHUNK)
        except BlockingIOError:
            return
        splitter = rank.splitters[stream]
        lines = splitter.feed(data, time.monotonic()) if data else splitter.finish()
        self._deliver(rank, stream, lines)
        if not data:
            self._close(rank, stream)

    def _deliver(self, rank: RankProcess, stream: Stream, lines: list[bytes]) -> None:
        if not lines:
            return
        if stream == "err":
            rank.stderr_tail.extend(lines)
        if self._logs is not None:
            self._logs.append(rank.spec.rank, lines)
        self._sink.lines(rank.spec.label, stream, lines)

    def _close(self, rank: RankProcess, stream: Stream) -> None:
        self._selector.unregister(rank.streams[stream])
        rank.close(stream)

    def _give_up_on_orphaned_pipes(self, now: float) -> None:
        """A process that left the session may keep a rank's pipe open for ever."""
        for rank in self._ranks:
            if rank.ended is None or now < rank.ended + _DRAIN_SECONDS:
                continue
            for stream in list(rank.streams):
                self._deliver(rank, stream, rank.splitters[stream].finish())
                self._close(rank, stream)

    # The end of processes

    def _reap(self, warden: Warden) -> None:
        for rank in self._ranks:
            if not rank.reap():
                continue
            warden.forget(rank.pid)
            self._tell_directory(rank)
            if rank.failed and self._term_at is None:
                self._first_failure(rank)

    def _tell_directory(self, rank: RankProcess) -> None:
        """Ranks that still wait for this one at the rendezvous read it there, and end at once."""
        if self._directory is None or self._told_store:
            return
        self._told_store = True
        path = Path(self._directory) / _LOST_KEY
        draft = path.with_name(".lost")
        with contextlib.suppress(OSError):  # they find out by themselves, later
            draft.write_text(f"{rank.spec.rank} {cause(rank)}", encoding="ascii")
            draft.rename(path)

    def _tell_port(self, now: float) -> None:
        """The same where the rendezvous is on a port; ranks of other hosts read it, too."""
        if self._directory is not None or self._told_store:
            return
        if self._interrupt is not None and any(rank.spec.rank == 0 for rank in self._ranks):
            return  # the rendezvous ends with rank 0, and nobody has lost anybody
        for rank in self._ranks:
            if rank.failed or (rank.ended is not None and now >= rank.ended + _LEAVING_SECONDS):
                self._told_store = True
                with contextlib.suppress(OSError, subprocess.SubprocessError):
                    text = f"{rank.spec.rank} {cause(rank)}"
                    serves = rank.spec.rank == 0 and rank.failed
                    self._teller = Teller(rank.spec.environment, _LOST_KEY, text, serves)
                return

    def _is_empty(self) -> bool:
        """Whether the directory has nothing but what the launcher may have written."""
        if self._directory is None:
            return False
        try:
            return set(os.listdir(self._directory)) <= {_LOST_KEY}
        except OSError:  # somebody has tidied up
            return False

    def _first_failure(self, rank: RankProcess) -> None:
        """Where all have been asked to end, those that still do have longer."""
        if self._interrupt is not None:
            return
        self._term_at = time.monotonic() + self._grace
        others = sum(other.running for other in self._ranks)
        if others:
            self._notify(
                f"{rank.spec.name}: {cause(rank)}; waiting up to {self._grace:g} s "
                f"for {others} other process{'es' if others > 1 else ''} to end"
            )

    def _escalate(self, now: float) -> None:
        self._tell_port(now)
        self._kill_frozen(now)
        if self._interrupt is not None:
            self._see_off(*self._interrupt, now)
        if self._kill_at is not None and now >= self._kill_at:
            self._end_running(signal.SIGKILL)
        elif self._kill_at is None and self._term_at is not None and now >= self._term_at:
            self._kill_at = now + _TERM_SECONDS
            self._end_running(signal.SIGTERM)

    def _see_off(self, number: int, since: float, now: float) -> None:
        """Who was asked to end and does not: is named, and killed when it is time."""
        staying = [rank for rank in self._ranks if rank.running]
        if not staying or self._killed_who_stays:
            return
        who, name = names(staying), signal_name(number)
        if now >= since + self._farewell:
            self._killed_who_stays = True
            self._end_running(signal.SIGKILL)
            self._notify(f"{who} did not end within {self._farewell:g} s of {name}: killed")
        elif now >= since + _TELL_WHO_STAYS and not self._told_who_stays:
            self._told_who_stays = True
            left = since + self._farewell - now
            self._notify(
                f"{name}: waiting up to {left:.0f} s more for {who} to end; a second one kills"
            )

    def _end_running(self, number: int) -> None:
        for rank in self._ranks:
            if not rank.running:
                continue
            rank.ended_by_launcher = True
            if rank.stopped():
                rank.frozen = True
            if number == signal.SIGKILL or rank.frozen:
                rank.kill()
            else:
                rank.pass_on(number)

    def _patience_with_frozen(self) -> float:
        """Where nothing has failed, nobody waits for them, and they may be about to go on."""
        expected = self._term_at is not None or self._interrupt is not None
        return _FROZEN_SECONDS if expected else max(self._grace, _FROZEN_SECONDS)

    def _kill_frozen(self, now: float) -> None:
        running = [rank for rank in self._ranks if rank.running]
        some_ended = len(running) < len(self._ranks)
        # Who is asked to end, and stands still, does not hear of it; other nodes have lost him.
        ending = some_ended or self._interrupt is not None or self._elsewhere
        if not running or not ending or not all(rank.stopped() for rank in running):
            self._stopped_since = None
        elif self._stopped_since is None:
            self._stopped_since = now
        elif now >= self._stopped_since + self._patience_with_frozen():
            if some_ended:
                why = "while the others have ended"
            elif self._interrupt is not None:
                why = "and cannot end"
            else:
                why = "and lost for other nodes"
            for rank in running:
                self._notify(
                    f"{rank.spec.name} (pid {rank.pid}) is frozen (stopped by a signal) {why}; "
                    "killing it"
                )
            self._end_running(signal.SIGKILL)

    # Signals

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        reader, writer = os.pipe()
        for descriptor in (reader, writer):
            os.set_blocking(descriptor, False)
        handled = [*ENDING, signal.SIGUSR1]
        # Ranks of other nodes would not wait, and take those of this one for lost.
        if not self._elsewhere and signal.getsignal(signal.SIGTSTP) == signal.SIG_DFL:
            handled.append(signal.SIGTSTP)
        if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # started by nohup
            handled.remove(signal.SIGHUP)
        previous = {number: signal.signal(number, self._on_signal) for number in handled}
        previous[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, _wake_only)
        old_wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self._selector.register(reader, selectors.EVENT_READ, None)
        try:
            yield
        finally:
            signal.set_wakeup_fd(old_wakeup)
            for number, handler in previous.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            self._selector.unregister(reader)
            os.close(reader)
            os.close(writer)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._all_started:
            self._forward(number)
        else:
            self._early_signals.append(number)

    def _ask_for_reports(self) -> None:
        """A process that is still importing, or has no handler, would die of the question."""
        for rank in self._ranks:
            if rank.survives(signal.SIGUSR1):
                rank.signal_only(signal.SIGUSR1)
            elif rank.running:
                self._notify(
                    f"{rank.spec.name} (pid {rank.pid}) does not handle SIGUSR1 (before gs.init(), "
                    "nobody does), and would be killed by it: not asked where it is"
                )

    def _stand_still(self) -> None:
        """Ctrl-Z stops the whole job: of the launcher alone, no rank could print for long."""
        for rank in self._ranks:
            rank.signal_group(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)  # until somebody sends SIGCONT
        for rank in self._ranks:
            rank.signal_group(signal.SIGCONT)

    def _forward(self, number: int) -> None:
        """Runs in the handler, so that it works while the launcher waits for a slow terminal."""
        if number == signal.SIGUSR1:
            self._ask_for_reports()
            return
        if number == signal.SIGTSTP:
            self._stand_still()
            return
        now = time.monotonic()
        self._interrupt = self._interrupt or (number, now)
        if number in self._heard:
            if now < self._heard[number] + _TWICE[number]:
                return
            self._end_running(signal.SIGKILL)  # first: nobody may be reading
            self._notify(f"second {signal_name(number)}: killed all processes")
            return
        self._heard.setdefault(number, now)
        for rank in self._ranks:
            rank.pass_on(number)


def _wake_only(_number: int, _frame: FrameType | None) -> None:
    """A handler of SIGCHLD, without which the wake-up pipe would not hear of it."""
