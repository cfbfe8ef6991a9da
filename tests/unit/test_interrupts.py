from __future__ import annotations

import os
import signal
import threading

from orchestrator.run.stopping import Interrupts, counted_interrupts


def test_the_second_signal_counts_after_a_moment():
    interrupts = Interrupts()
    interrupts.add(signal.SIGTERM, 1.0)
    interrupts.add(signal.SIGTERM, 1.1)
    assert interrupts.count == 1
    interrupts.add(signal.SIGINT, 2.0)
    assert interrupts.count == 2


def test_signals_are_counted_inside_the_block_and_handled_as_before_outside():
    before = signal.getsignal(signal.SIGTERM)
    with counted_interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts.count == 1
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_that_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with counted_interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGHUP)
            assert interrupts.count == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_the_main_thread_nothing_is_caught():
    counts = []

    def work():
        with counted_interrupts() as interrupts:
            counts.append(interrupts.count)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert counts == [0]
