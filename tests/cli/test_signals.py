"""Signals that ask for the end: each an exception once, and only where it was not to be ignored."""

from __future__ import annotations

import os
import signal

import pytest

from fgbench.cli import signals
from fgbench.cli.signals import OrderlyStop, Stopped


@pytest.fixture(autouse=True)
def as_before():
    before = {number: signal.getsignal(number) for number in signals.SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_is_an_interruption_with_its_name_and_the_old_answer_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match="by SIGTERM"), OrderlyStop() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
    assert (stop.number, stop.name) == (signal.SIGTERM, "SIGTERM")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_one_does_not_cut_off_the_end_that_the_first_began(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(signals, "monotonic", lambda: now[0])
    with OrderlyStop():
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        now[0] = signals.ENDING_SECONDS + 1  # the first was lost, or the end hangs
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)


def test_under_nohup_a_hangup_changes_nothing():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with OrderlyStop():
        os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
