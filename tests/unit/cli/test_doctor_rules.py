"""What `dvt doctor` says of what nodes told, on numbers made up here."""

from dataclasses import replace

import pytest

from dvt.cli.doctor_node import PACKAGES, Gpu, NodeHealth, Rates
from dvt.cli.doctor_rules import (
    ClockOffset,
    LinkSpeed,
    judge_clocks,
    judge_disks,
    judge_gpus,
    judge_links,
    judge_storage,
    judge_tracking,
    judge_versions,
)

VERSIONS = {"Python": "3.11.7", "CUDA": "13.0"} | dict.fromkeys(PACKAGES, "1.0")
GPU = Gpu("0", "H200", "580.1", used_mib=4, total_mib=140_000)


def node(host: str, **changes: object) -> NodeHealth:
    health = NodeHealth(host, f"10.0.0.{host[-1]}", dict(VERSIONS), {"/tmp/ray": 50.0}, (), 0.0)
    return replace(health, **changes)  # type: ignore[arg-type]


def test_versions() -> None:
    same = judge_versions([node("h1"), node("h2")])
    assert (same.state, same.told) == ("pass", "Python 3.11.7, ray 1.0, torch 1.0, timm 1.0, mlflow 1.0 on every node")
    odd = judge_versions([node("h1"), node("h2", versions=VERSIONS | {"torch": "1.1", "timm": "none"}), node("h3")])
    assert (odd.check, odd.state) == ("versions", "fail")
    assert odd.told == (
        "torch is 1.0 but on h2 (10.0.0.2) 1.1; timm is 1.0 but on h2 (10.0.0.2) none; install the same on every node"
    )


@pytest.mark.parametrize(
    ("ahead_s", "state", "told"),
    [
        (0.25, "pass", "within 250.0 ms of one another, known to 1.5 ms"),
        (-1.0, "pass", "within 1,000.0 ms of one another, known to 1.5 ms"),  # the difference may be less than a second
        (1.5, "fail", "must be at most 1 s apart, got 1.5 s from h1 to h2; keep them by NTP"),
        (-90, "fail", "must be at most 1 s apart, got 90 s from h2 to h1; keep them by NTP"),
    ],
)
def test_clocks(ahead_s: float, state: str, told: str) -> None:
    verdict = judge_clocks([ClockOffset("h1", 0.0, 0.0005), ClockOffset("h2", ahead_s, 0.001)])
    assert (verdict.state, verdict.told) == (state, told)


def test_one_clock() -> None:
    assert judge_clocks([ClockOffset("h1", 3.0, 0.1)]).state == "skip"


def test_gpus() -> None:
    good = [node("h1", gpus=(GPU, replace(GPU, index="1")), ray_gpus=2.0), node("h2", gpus=(GPU,), ray_gpus=1.0)]
    assert judge_gpus(good, 3).told == "3 x H200 with driver 580.1"
    assert judge_gpus(good, 3).state == "pass"
    assert judge_gpus(good, 4).told == "the run asks for 4 and Ray has 3"
    none = judge_gpus([node("h1")], 0)
    assert (none.state, none.told) == ("skip", "none, and none asked for")
    assert judge_gpus([node("h1")], 0.5).told == "the run asks for 0.5 and Ray has 0"
    busy = node("h2", gpus=(replace(GPU, used_mib=7_001),), ray_gpus=2.0, versions=VERSIONS | {"CUDA": "none"})
    assert judge_gpus([busy], 1).told == (
        "h2 (10.0.0.2): Ray hands out 2, nvidia-smi sees 1; h2 (10.0.0.2): torch is built without CUDA; "
        "h2 (10.0.0.2): GPU 0 has 7,001 MiB in use already"
    )
    mixed = [good[1], node("h1", gpus=(replace(GPU, name="A10"),), ray_gpus=1.0)]
    assert judge_gpus(mixed, 1).told == (
        "they differ, and the slowest sets the pace: 1 x H200 with driver 580.1, 1 x A10 with driver 580.1"
    )


def test_disks() -> None:
    nodes = [node("h1"), node("h2", free_gib={"/tmp/ray": 12.0, "/runs": 3.25})]
    assert judge_disks(nodes, 3.25).told == "at least 3.2 GiB free, the least in /runs of h2 (10.0.0.2)"
    short = judge_disks(nodes, 20)
    told = "must have at least 20 GiB free, got 3.2 in /runs of h2 (10.0.0.2), 12.0 in /tmp/ray of h2 (10.0.0.2)"
    assert (short.state, short.told) == ("fail", f"{told}; make room")


def test_storage() -> None:
    rates: dict[str, Rates | str] = {"h1": Rates(80.4, 200.2), "h2": Rates(90.0, 200.4)}
    seen: dict[str, list[str] | str] = {"h1": [], "h2": []}
    good = judge_storage("s3://b/runs", rates, seen, 80)
    assert (good.state, good.told) == ("pass", "s3://b/runs: write 80 to 90, read 200 MiB/s a node, all at once")
    slow = judge_storage("s3://b/runs", rates, seen, 85)
    assert slow.state == "fail"
    assert slow.told.endswith("; h1: slower than 85 MiB/s")
    apart = judge_storage("/runs", rates, {"h1": ["h2"], "h2": ["h1"]}, 0)
    assert apart.state == "fail"
    assert apart.told.endswith("h2 does not see what h1 wrote: it must be one place for all nodes")
    refused = judge_storage("s3://b/runs", {"h1": "Forbidden"}, {"h1": "Forbidden"}, 0)
    assert (refused.state, refused.told) == ("fail", "s3://b/runs; h1: Forbidden")


def test_tracking() -> None:
    assert judge_tracking("sqlite:////m.db", None, {}).told == "sqlite:////m.db answers the driver"
    reached = judge_tracking("http://m", None, {"h1": None, "h2": None})
    assert (reached.state, reached.told) == ("pass", "http://m answers the driver, reached from 2 nodes")
    assert judge_tracking("http://m", None, {"h1": None, "h2": "timed out"}).told == "h2: timed out"
    assert judge_tracking("http://m", "it is away", {}).state == "fail"


def test_links() -> None:
    # Of 4 workers each sends 2 x 3 / 4 of 100 MB: 150 MB in 0.5 s.
    speed = LinkSpeed(4, "gloo", 100_000_000, 0.5)
    assert speed.bus_gb_s == pytest.approx(0.3)
    good, slow = judge_links(speed, 0.3), judge_links(speed, 0.31)
    assert (good.state, good.told) == ("pass", "4 workers by gloo: 0.3 GB/s on each link, 500 ms for 95.3674 MiB")
    assert (slow.state, slow.told) == ("fail", f"must reach 0.31 GB/s, got {good.told}")
    assert judge_links(None, 0).state == "skip"
    assert (judge_links("no way", 0).state, judge_links("no way", 0).told) == ("fail", "no way")
