"""The node's trouble is not the series': a job waits for its device, its disk or its memory, and others go on."""

from __future__ import annotations

import errno

import pytest
import torch

from contourd.contour.contouring import contour_series
from contourd.errors import DeviceError, DeviceUnavailable
from contourd.model.runtime import check_memory
from contourd.model.torch_runtime import raise_unavailable
from contourd.observe.concerns import read_concerns
from contourd.reasons.catalogue import HoldReason
from contourd.settings import load_settings
from contourd.store.states import JobState
from tests.contoured import activate, close_bench, open_bench
from tests.interop.node import write_configuration
from tests.queueing import START

CUDA = torch.device("cuda:0")
BUSY = DeviceUnavailable(
    HoldReason.DEVICE_OUT_OF_MEMORY, device="cuda:0", said="CUDA out of memory. Tried to allocate 2.00 GiB"
)
LOST = DeviceUnavailable(HoldReason.DEVICE_FAILED, device="cuda:0", said="CUDA error: device-side assert triggered")


@pytest.fixture
def bench(tmp_path, fit_bundle):
    configuration = write_configuration(tmp_path / "node", 11112, "bright", {"pacs": ("PACS", 104)})
    bench = open_bench(load_settings(configuration))
    activate(bench, fit_bundle)
    yield bench
    close_bench(bench)


def failing(*errors):
    """Contour after so many errors."""
    left = list(errors)

    def contour(instances, predictor, order):
        if left:
            raise left.pop(0)
        return contour_series(instances, predictor, order)

    return contour


def test_a_device_that_is_busy_for_a_moment_costs_the_job_nothing(bench, make_series):
    bench.add(make_series("p1"))
    bench.contour = failing(BUSY)
    waiting = bench.work()
    assert (waiting.state, waiting.attempts) == (JobState.QUEUED, 0)
    assert str(waiting.reason) == f"waits for the device: {BUSY}"
    done = bench.work()
    assert (done.state, done.reason) == (JobState.DELIVERING, None)


def test_it_waits_ever_longer(bench, make_series):
    job = bench.add(make_series("p1"))
    bench.contour = failing(BUSY, BUSY, BUSY)
    for wait_s in (2, 4, 8):
        claimed = bench.worker.fetch_job()
        assert claimed.id == job
        bench.worker.run_job(claimed)
        bench.elapsed_s += wait_s - 0.01
        assert bench.worker.fetch_job() is None
        bench.elapsed_s += wait_s / 10 + 0.02  # up to a tenth is added
    assert bench.worker.fetch_job().id == job


def test_another_job_goes_on_meanwhile(bench, make_series):
    first, second = bench.add(make_series("p1")), bench.add(make_series("p2"))
    bench.contour = failing(BUSY)
    for expected in (first, second):
        job = bench.worker.fetch_job()
        assert job.id == expected
        bench.worker.run_job(job)
    assert bench.worker.fetch_job() is None
    bench.elapsed_s += 3
    assert bench.worker.fetch_job().id == first


def test_the_on_call_hears_of_the_device_and_not_of_the_series(bench, make_series):
    bench.add(make_series("p1"))
    bench.contour = failing(BUSY)
    bench.work()
    (concern,) = read_concerns(bench.database, START, 900, 1e9)
    assert (concern.rule, concern.text) == ("device", "the device cannot be used: 1 jobs wait for it")
    bench.work()
    assert read_concerns(bench.database, START, 900, 1e9) == []


def test_a_device_that_is_lost_ends_the_worker_so_that_another_begins(bench, make_series):
    bench.add(make_series("p1"))
    bench.contour = failing(LOST)
    assert bench.work().state == JobState.QUEUED
    assert bench.worker.stopping.is_set()


def test_the_machines_memory_is_waited_for_where_nothing_limits_the_worker(bench, make_series):
    bench.add(make_series("p1"))
    bench.contour = failing(
        MemoryError("Unable to allocate 2 GiB"), RuntimeError("DefaultCPUAllocator: can't allocate memory")
    )
    for _ in range(2):
        waiting = bench.work()
        assert (waiting.state, waiting.attempts) == (JobState.QUEUED, 0)
        assert str(waiting.reason).startswith("waits for the device: this machine has no memory left: ")
    assert bench.work().state == JobState.DELIVERING


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_is_full_is_waited_for(bench, make_series, number):
    bench.add(make_series("p1"))
    bench.worker.stopping.set()  # so that it does not wait
    bench.contour = failing(OSError(number, "No space left on device"))
    waiting = bench.work()
    assert (waiting.state, waiting.attempts) == (JobState.QUEUED, 0)
    assert str(waiting.reason) == "waits: a file cannot be written: No space left on device"
    assert bench.work().state == JobState.DELIVERING


def test_a_device_that_is_too_small_for_ever_holds_the_job_at_once(bench, make_series):
    bench.add(make_series("p1"))
    bench.contour = failing(DeviceError(HoldReason.DEVICE_TOO_SMALL, needed_gib=99.0, device="cuda:0", total_gib=8.0))
    held = bench.work()
    assert held.state == JobState.HELD
    assert held.reason.held_as == "device"
    assert held.reason.remedy.startswith("Nothing is wrong with the series.")


@pytest.mark.parametrize(
    ("said", "lost"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore"), False),
        (RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True),
        (RuntimeError("Found no NVIDIA driver on your system."), True),
        (RuntimeError("No CUDA GPUs are available"), True),
    ],
)
def test_what_torch_says_of_a_device_that_fails(monkeypatch, said, lost):
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    with pytest.raises(DeviceUnavailable) as raised:
        raise_unavailable(said, CUDA)
    assert raised.value.lost is lost
    assert "\n" not in str(raised.value)


def test_a_fault_of_the_code_is_no_fault_of_the_device():
    raise_unavailable(RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), CUDA)
    raise_unavailable(RuntimeError("CUDA error: no kernel image"), torch.device("cpu"))


@pytest.mark.parametrize(("free", "kind"), [(99, DeviceUnavailable), (100, None), (0, DeviceUnavailable)])
def test_memory_that_others_have_now_is_waited_for(monkeypatch, free, kind):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 200))
    if kind is None:
        check_memory(CUDA, 100, 1)
    else:
        with pytest.raises(kind, match="GiB are free"):
            check_memory(CUDA, 100, 1)
    with pytest.raises(DeviceError, match="which has") as never:
        check_memory(CUDA, 201, 1)
    assert not isinstance(never.value, DeviceUnavailable)
