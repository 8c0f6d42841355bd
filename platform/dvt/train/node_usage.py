"""How busy this node is, under the names that MLflow's page shows as system metrics."""

import psutil
import torch

_MIB = 2**20


def node_usage() -> dict[str, float]:
    """What the node's processors, memory and GPUs are used for, by all processes together.

    Returns:
        `cpu_utilization_percentage` since the last call in this process (0 at the first), memory in MiB and percent,
        and for each GPU that this process sees its memory alike.
    """
    memory = psutil.virtual_memory()
    usage = {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": memory.used / _MIB,
        "system_memory_usage_percentage": memory.percent,
    }
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        usage[f"gpu_{index}_memory_usage_megabytes"] = (total - free) / _MIB
        usage[f"gpu_{index}_memory_usage_percentage"] = 100 * (total - free) / total
    return usage
