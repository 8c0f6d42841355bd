"""Really leaving early: run only the stages that an image needs."""

from dvt.inference.budget import Budget, thresholds_within
from dvt.inference.early_exit import EarlyExit
from dvt.inference.latency import LatencyProfile, device_name, keep_profile, measure_latency, profile_of, read_profiles
from dvt.inference.result import EarlyExitResult

__all__ = [
    "Budget",
    "EarlyExit",
    "EarlyExitResult",
    "LatencyProfile",
    "device_name",
    "keep_profile",
    "measure_latency",
    "profile_of",
    "read_profiles",
    "thresholds_within",
]
