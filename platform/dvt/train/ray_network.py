"""Over which network the training workers of a cluster talk to one another.

A machine may stand in several networks. Gloo takes the one that its host name leads to, which may be its loopback, and
NCCL the first that it finds; the workers of other machines are sure to reach the one that Ray uses.
"""

import ipaddress
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

# What PyTorch's two ways of communication read, and what stands before the name: NCCL takes one without = as the
# beginning of names.
SETTINGS = {"GLOO_SOCKET_IFNAME": "", "NCCL_SOCKET_IFNAME": "="}


@dataclass
class PinnedConfig(TorchConfig):
    """The process group of workers, each bound to the interface of its node's address in the cluster."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """What Ray Train starts the process group with."""
        return _PinnedBackend


class _PinnedBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(_pin_interface)
        super().on_start(worker_group, backend_config)


def _pin_interface() -> None:
    """Bind this worker's communication, unless the node's own settings say to what."""
    found = interface_of(ray.util.get_node_ip_address(), _addresses())
    for name, before in SETTINGS.items():
        if found is not None:
            os.environ.setdefault(name, before + found)


def interface_of(address: str, interfaces: Mapping[str, Sequence[str]]) -> str | None:
    """The interface that carries an address; None if there is none, as behind a NAT.

    Args:
        address: Of the node, an IPv4 or IPv6 one.
        interfaces: The addresses of each interface.
    """
    wanted = ipaddress.ip_address(address)
    for name, found in interfaces.items():
        if any(ipaddress.ip_address(each) == wanted for each in found):
            return name
    return None


def _addresses() -> dict[str, list[str]]:
    """This machine's addresses by interface."""
    return {
        name: [each.address.partition("%")[0] for each in found if each.family.name in ("AF_INET", "AF_INET6")]
        for name, found in psutil.net_if_addrs().items()
    }
