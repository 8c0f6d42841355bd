"""Really leaving early: run only the stages that an image needs."""

from dvt.inference.early_exit import EarlyExit, EarlyExitResult

__all__ = ["EarlyExit", "EarlyExitResult"]
