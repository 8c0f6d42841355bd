"""A profile of some training steps, to see where their time goes: operators, kernels, and who waits for whom.

The first worker records it once it has warmed up, and keeps it in the run's folder: `trace/trace.json.gz`, which
https://ui.perfetto.dev opens, and `trace/operators.txt`, a table of the operators that took most.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType

from torch.profiler import ProfilerActivity, profile, schedule

from dvt.train.worker import Worker

TRACE = "trace"
NUM_BEFORE = 10  # steps of the process that are not recorded: caches fill, memory is found, stages compile
_NUM_ROWS = 50


class StepTrace:
    """Records steps of this process while the context lasts; does nothing on other workers than the first.

    Args:
        num_steps: How many; 0 records none.
        worker: This process.
        keep: Copies a folder into the run's storage.
    """

    def __init__(self, num_steps: int, worker: Worker, keep: Callable[[Path], str]) -> None:
        self._keep = keep
        self._is_on_gpu = worker.device.type == "cuda"
        self._profile: profile | None = None
        if num_steps > 0 and worker.rank == 0:
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._is_on_gpu else [])]
            plan = schedule(skip_first=NUM_BEFORE - 1, wait=0, warmup=1, active=num_steps, repeat=1)
            self._profile = profile(activities=activities, schedule=plan, on_trace_ready=self._write, acc_events=True)

    def __enter__(self) -> "StepTrace":
        if self._profile is not None:
            self._profile.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._profile is not None:  # a training with fewer steps leaves what there is
            self._profile.stop()

    def stepped(self) -> None:
        """Tell that a step was taken."""
        if self._profile is not None:
            self._profile.step()

    def _write(self, recorded: profile) -> None:
        by = "self_device_time_total" if self._is_on_gpu else "self_cpu_time_total"
        with TemporaryDirectory(prefix="dvt-") as scratch:
            place = Path(scratch) / TRACE
            place.mkdir()
            recorded.export_chrome_trace(str(place / "trace.json.gz"))
            table = recorded.key_averages().table(sort_by=by, row_limit=_NUM_ROWS)
            (place / "operators.txt").write_text(table, encoding="utf-8")
            self._keep(place)
