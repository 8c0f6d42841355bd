"""What `dvt doctor` makes of what the nodes told: pass, fail or skip, and why, a line a check."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dvt.cli.doctor_node import NodeHealth, Rates

MAX_CLOCK_SKEW_S = 1.0  # beyond it rows of metrics stand in a wrong order, and signatures of requests age
MAX_USED_SHARE = 0.05  # of a GPU's memory before a job begins


@dataclass(frozen=True)
class Verdict:
    """What is said of one check."""

    check: str
    state: Literal["pass", "fail", "skip"]
    told: str


@dataclass(frozen=True)
class ClockOffset:
    """By how much a node's clock is ahead of the driver's, in seconds, and how far off that may be."""

    host: str
    ahead_s: float
    uncertain_s: float


@dataclass(frozen=True)
class LinkSpeed:
    """What an all-reduce over all workers reached.

    Attributes:
        num_workers: How many took part.
        backend: What carried it: nccl or gloo.
        num_bytes: Size of the tensor.
        seconds: Of one all-reduce, the median.
    """

    num_workers: int
    backend: str
    num_bytes: int
    seconds: float

    @property
    def bus_gb_s(self) -> float:
        """GB/s over each worker's link, whatever their number: 2 (n - 1) / n of the tensor go out and in."""
        return 2 * (self.num_workers - 1) / self.num_workers * self.num_bytes / self.seconds / 1e9


def judge_versions(nodes: Sequence[NodeHealth]) -> Verdict:
    """Whether all nodes run the same."""
    odd = []
    for name in nodes[0].versions:
        counted = Counter(node.versions[name] for node in nodes)
        common = counted.most_common(1)[0][0]
        if len(counted) > 1:
            others = [f"{node.told} {node.versions[name]}" for node in nodes if node.versions[name] != common]
            odd.append(f"{name} is {common} but on {', '.join(others)}")
    if odd:
        return Verdict("versions", "fail", f"{'; '.join(odd)}; install the same on every node")
    shown = ", ".join(f"{name} {nodes[0].versions[name]}" for name in ("Python", "ray", "torch", "timm", "mlflow"))
    return Verdict("versions", "pass", f"{shown} on every node")


def judge_clocks(offsets: Sequence[ClockOffset]) -> Verdict:
    """Whether the nodes' clocks agree."""
    if len(offsets) == 1:
        return Verdict("clocks", "skip", "one node has one clock")
    first, last = (pick(offsets, key=lambda offset: offset.ahead_s) for pick in (min, max))
    skew = last.ahead_s - first.ahead_s
    uncertain = first.uncertain_s + last.uncertain_s
    told = f"within {1e3 * skew:,.1f} ms of one another, known to {1e3 * uncertain:,.1f} ms"
    if skew - uncertain > MAX_CLOCK_SKEW_S:
        rule = f"must be at most {MAX_CLOCK_SKEW_S:g} s apart, got {skew:.3g} s from {first.host} to {last.host}"
        return Verdict("clocks", "fail", f"{rule}; keep them by NTP")
    return Verdict("clocks", "pass", told)


def judge_gpus(nodes: Sequence[NodeHealth], wanted: float) -> Verdict:
    """Whether there are the GPUs that a run asks for, all known to Ray, alike and free.

    Args:
        nodes: What the nodes told.
        wanted: How many the run asks for.
    """
    there = sum(node.ray_gpus for node in nodes)
    faults = []
    if there < wanted:
        faults.append(f"the run asks for {wanted:g} and Ray has {there:g}")
    for node in nodes:
        if node.ray_gpus != len(node.gpus):
            faults.append(f"{node.told}: Ray hands out {node.ray_gpus:g}, nvidia-smi sees {len(node.gpus)}")
        if node.gpus and node.versions["CUDA"] == "none":
            faults.append(f"{node.told}: torch is built without CUDA")
        used = [gpu for gpu in node.gpus if gpu.used_mib > MAX_USED_SHARE * gpu.total_mib]
        faults += [f"{node.told}: GPU {gpu.index} has {gpu.used_mib:,.0f} MiB in use already" for gpu in used]
    kinds = Counter((gpu.name, gpu.driver) for node in nodes for gpu in node.gpus)
    told = ", ".join(f"{count} x {name} with driver {driver}" for (name, driver), count in kinds.most_common())
    if len(kinds) > 1:
        faults.append(f"they differ, and the slowest sets the pace: {told}")
    if faults:
        return Verdict("gpus", "fail", "; ".join(faults))
    return Verdict("gpus", "pass" if kinds else "skip", told or "none, and none asked for")


def judge_disks(nodes: Sequence[NodeHealth], min_free_gib: float) -> Verdict:
    """Whether there is room on every node."""
    free = [(gib, node.told, folder) for node in nodes for folder, gib in node.free_gib.items()]
    least = min(free)
    short = sorted(each for each in free if each[0] < min_free_gib)
    if short:
        told = ", ".join(f"{gib:.1f} in {folder} of {node}" for gib, node, folder in short)
        return Verdict("disks", "fail", f"must have at least {min_free_gib:g} GiB free, got {told}; make room")
    return Verdict("disks", "pass", f"at least {least[0]:.1f} GiB free, the least in {least[2]} of {least[1]}")


def judge_storage(
    storage: str, rates: Mapping[str, Rates | str], missing: Mapping[str, list[str] | str], min_mib_s: float
) -> Verdict:
    """Whether every node writes to the runs' storage, reads from it, and sees what the others wrote.

    Args:
        storage: `run.storage_path`, as it may be told.
        rates: By node, what its try gave.
        missing: By node, which nodes' files it does not see.
        min_mib_s: Least rate of a node.
    """
    faults = [f"{node}: {told}" for node, told in rates.items() if isinstance(told, str)]
    found = {node: told for node, told in rates.items() if isinstance(told, Rates)}
    for node, unseen in missing.items():
        if node not in found:  # told already
            continue
        if isinstance(unseen, str):
            faults.append(f"{node}: {unseen}")
        elif unseen:
            faults.append(f"{node} does not see what {', '.join(unseen)} wrote: it must be one place for all nodes")
    if not faults:
        slow = [node for node, rate in found.items() if min(rate.write, rate.read) < min_mib_s]
        faults += [f"{node}: slower than {min_mib_s:g} MiB/s" for node in slow]
    writes, reads = [rate.write for rate in found.values()], [rate.read for rate in found.values()]
    told = f"{storage}: write {_span(writes)}, read {_span(reads)} MiB/s a node, all at once" if found else storage
    return Verdict("storage", "fail" if faults else "pass", "; ".join([told, *faults]))


def judge_tracking(where: str, problem: str | None, unreached: Mapping[str, str | None]) -> Verdict:
    """Whether MLflow lets the driver in and can be reached from every node.

    Args:
        where: Its address, as it may be told.
        problem: Why the driver cannot use it.
        unreached: By node, why it cannot be reached from there; empty where it is a file or a database of the driver.
    """
    faults = [problem] if problem else [f"{node}: {why}" for node, why in unreached.items() if why]
    if faults:
        return Verdict("mlflow", "fail", "; ".join(faults))
    nodes = f", reached from {len(unreached)} nodes" if unreached else ""
    return Verdict("mlflow", "pass", f"{where} answers the driver{nodes}")


def judge_links(speed: LinkSpeed | str | None, min_gb_s: float) -> Verdict:
    """How fast the workers add up gradients; None where a single worker adds up nothing, a string says what failed."""
    if speed is None:
        return Verdict("all-reduce", "skip", "one worker adds up nothing")
    if isinstance(speed, str):
        return Verdict("all-reduce", "fail", speed)
    told = (
        f"{speed.num_workers} workers by {speed.backend}: {speed.bus_gb_s:.3g} GB/s on each link, "
        f"{1e3 * speed.seconds:.3g} ms for {speed.num_bytes / 2**20:g} MiB"
    )
    if speed.bus_gb_s < min_gb_s:
        return Verdict("all-reduce", "fail", f"must reach {min_gb_s:g} GB/s, got {told}")
    return Verdict("all-reduce", "pass", told)


def _span(values: Sequence[float]) -> str:
    least, most = f"{min(values):.0f}", f"{max(values):.0f}"
    return least if least == most else f"{least} to {most}"
