"""One thread that alone touches the model."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from mlx_tinylm.inside.model_thread import ModelThread, UnwantedError


def test_all_is_done_in_one_thread() -> None:
    """What opens and what works with it are one thread, whoever asks; jobs are done in their order."""
    model = ModelThread(threading.get_ident)
    with ThreadPoolExecutor(4) as pool:
        threads = list(pool.map(lambda _: model.run(lambda held: (held, threading.get_ident())), range(20)))
    assert set(threads) == {(model.opened.result(), model.opened.result())}
    assert model.opened.result() != threading.get_ident()
    model.close()


def test_jobs_wait_for_what_is_opened() -> None:
    """A job that comes early is done as soon as there is something to do it with."""
    ready = threading.Event()
    model = ModelThread(lambda: ready.wait(10))
    with ThreadPoolExecutor(1) as pool:
        job: Future[bool] = pool.submit(lambda: model.run(lambda held: held))
        assert not job.done()
        ready.set()
        assert job.result(10) is True
    model.close()


def test_errors_go_to_who_asked() -> None:
    """What a job raises is raised where it was asked for, and the next job is done."""
    model = ModelThread(lambda: 0)
    with pytest.raises(ZeroDivisionError):
        model.run(lambda held: 1 // held)
    assert model.run(lambda held: held + 1) == 1
    model.close()


def test_what_cannot_be_opened_is_told_to_all() -> None:
    """Where opening fails, that is what every job raises, before and after."""

    def broken() -> int:
        raise ValueError("no model")

    model = ModelThread(broken)
    for _ in range(2):
        with pytest.raises(ValueError, match="no model"):
            model.run(lambda held: held)
    with pytest.raises(ValueError, match="no model"):
        model.opened.result()
    model.close()


def test_a_job_that_nobody_waits_for_is_not_done() -> None:
    """When its turn comes, a job is asked whether it is still wanted."""
    model, done = ModelThread(lambda: 0), []
    with pytest.raises(UnwantedError):
        model.run(done.append, lambda: False)
    assert done == []
    model.close()


def test_closing_does_not_wait_long() -> None:
    """A job under way does not keep the program from ending."""
    model, release = ModelThread(lambda: 0), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: model.run(lambda held: release.wait(20)))
        time.sleep(0.1)
        begun = time.monotonic()
        model.close(0.1)
        assert time.monotonic() - begun < 5
        release.set()
