"""Which interface workers talk over, and that they are told before their process group starts."""

import os
import socket

import psutil
import pytest
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

from dvt.train import ray_network
from dvt.train.ray_network import PinnedConfig, interface_of

INTERFACES = {
    "lo": ["127.0.0.1", "::1"],
    "eth0": ["10.0.0.7", "fe80::1"],
    "ib0": ["10.77.0.1", "2001:db8:0:0::5"],
}


@pytest.mark.parametrize(
    ("address", "name"),
    [("10.77.0.1", "ib0"), ("10.0.0.7", "eth0"), ("127.0.0.1", "lo"), ("2001:db8::5", "ib0"), ("10.0.0.70", None)],
)
def test_the_interface_that_carries_an_address(address: str, name: str | None) -> None:
    assert interface_of(address, INTERFACES) == name


def test_this_machines_addresses() -> None:
    loopback = next(
        name for name, found in psutil.net_if_addrs().items() if any(each.address == "127.0.0.1" for each in found)
    )
    assert interface_of("127.0.0.1", ray_network._addresses()) == loopback
    assert {each.family for found in psutil.net_if_addrs().values() for each in found} >= {socket.AF_INET}


@pytest.mark.parametrize("own", [None, "bond0"])
def test_a_worker_is_bound_unless_its_node_says_to_what(monkeypatch: pytest.MonkeyPatch, own: str | None) -> None:
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "10.77.0.1")
    monkeypatch.setattr(ray_network, "_addresses", lambda: INTERFACES)
    for name in ray_network.SETTINGS:
        monkeypatch.setenv(name, own or "")
        if own is None:
            monkeypatch.delenv(name)
    ray_network._pin_interface()
    told = [os.environ[name] for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")]
    assert told == (["ib0", "=ib0"] if own is None else ["bond0", "bond0"])


def test_workers_are_bound_before_the_process_group_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[object] = []

    class Group:
        def execute(self, function: object) -> None:
            order.append(function)

    def starts(self: object, group: object, config: TorchConfig) -> None:
        order.append("process group")

    monkeypatch.setattr(_TorchBackend, "on_start", starts)
    config = PinnedConfig()
    config.backend_cls().on_start(Group(), config)
    assert order == [ray_network._pin_interface, "process group"]
