"""Signals that ask to stop: what counts as a request, and what as its echo."""

import os
import signal
from collections.abc import Iterator

import pytest

from normstudy import launch
from normstudy.launch import ECHO_SECONDS, SAME_STOP_SECONDS, STOPS, StopSignal, held_back


class EndedAtOnce(Exception):
    """Instead of the end of the tests' own process."""


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """A clock to set, and the handlers as they were in the end."""
    before = {number: signal.getsignal(number) for number in STOPS}

    def end(status: int) -> None:
        raise EndedAtOnce(status)

    clock = Clock()
    monkeypatch.setattr(launch, "time", clock)
    monkeypatch.setattr(os, "_exit", end)
    yield clock
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_the_same_signal_again_ends_the_process_at_once_unless_it_is_an_echo(
    number: signal.Signals, status: int, clock: Clock, capfd: pytest.CaptureFixture[str]
) -> None:
    stop_signal = StopSignal()
    signal.raise_signal(number)
    clock.now += ECHO_SECONDS
    signal.raise_signal(number)
    assert stop_signal() == number
    clock.now += 0.1
    with pytest.raises(EndedAtOnce, match=f"^{status}$"):
        signal.raise_signal(number)
    assert capfd.readouterr().err == "normstudy: stopped at once; start it again to resume\n"


@pytest.mark.parametrize("forwarded", [signal.SIGTERM, signal.SIGHUP])
def test_another_signal_within_seconds_is_the_same_stop(forwarded: signal.Signals, clock: Clock) -> None:
    stop_signal = StopSignal()
    signal.raise_signal(signal.SIGINT)
    clock.now += SAME_STOP_SECONDS
    signal.raise_signal(forwarded)
    assert stop_signal() == signal.SIGINT
    clock.now += 0.1
    with pytest.raises(EndedAtOnce, match=f"^{128 + forwarded}$"):
        signal.raise_signal(forwarded)


def test_in_the_process_of_a_trial_only_the_first_signal_counts(clock: Clock) -> None:
    stop_signal = StopSignal(gone=lambda: False)
    assert stop_signal() is None
    for number in (signal.SIGTERM, *STOPS):
        clock.now += 100
        signal.raise_signal(number)
    assert stop_signal() == signal.SIGTERM


def test_a_trial_whose_output_nobody_reads_stops_as_by_sigterm() -> None:
    answers = iter([False, False, True])
    stop_signal = StopSignal(gone=lambda: next(answers))
    assert [stop_signal() for _ in range(4)] == [None, None, signal.SIGTERM, signal.SIGTERM]


def test_an_ignored_hangup_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop_signal = StopSignal()
    signal.raise_signal(signal.SIGHUP)
    assert stop_signal() is None


def test_a_signal_that_is_held_back_arrives_once_there_is_somebody_to_remember_it() -> None:
    with held_back():
        signal.raise_signal(signal.SIGTERM)  # to this thread; it would end the tests
        stop_signal = StopSignal()
        assert stop_signal() == signal.SIGTERM
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(STOPS)
