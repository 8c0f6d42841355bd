"""Really leaving early: run only the stages that an image needs."""

from dvt.inference.early_exit import EarlyExit
from dvt.inference.result import EarlyExitResult

__all__ = ["EarlyExit", "EarlyExitResult"]
