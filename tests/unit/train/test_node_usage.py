import psutil
import pytest

from dvt.train.node_usage import node_usage


def test_it_tells_what_psutil_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "cpu_percent", lambda: 37.5)
    usage = node_usage()
    assert usage["cpu_utilization_percentage"] == 37.5
    total = psutil.virtual_memory().total / 2**20
    assert 0 < usage["system_memory_usage_megabytes"] < total
    assert 0 < usage["system_memory_usage_percentage"] < 100
