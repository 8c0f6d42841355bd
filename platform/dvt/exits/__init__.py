"""When to leave: confidence, thresholds for a budget, and the accuracy-budget front, on cached arrays alone."""

from dvt.exits.budgets import checked_budgets, default_budgets, points_at_budgets, thresholds_for_budgets
from dvt.exits.choice import ConfidenceChoice, choose_confidence, front_area, score_in_chunks
from dvt.exits.confidence import (
    MEASURES,
    PLAIN,
    Confidence,
    Measure,
    fit_temperatures,
    margin,
    max_probability,
    negative_entropy,
)
from dvt.exits.front import Front, FrontPoint, measure_point, transfer_front
from dvt.exits.guarantee import Guarantee, guaranteed_thresholds, split_calibration
from dvt.exits.hypervolume import hypervolume
from dvt.exits.lattice import lattice_gap
from dvt.exits.report import BudgetPoint, ExitRow, FrontReport, GuaranteedPoint, StaticReference, make_report
from dvt.exits.scores import ExitScores, score_exits
from dvt.exits.solve import calibrated_front, solve_front
from dvt.exits.threshold_table import ThresholdRow, ThresholdTable
from dvt.exits.thresholds import (
    PUBLISHED_RATIOS,
    Thresholds,
    candidate_thresholds,
    exit_indices,
    geometric_shares,
    single_exit_thresholds,
    thresholds_for_shares,
)

__all__ = [
    "MEASURES",
    "PLAIN",
    "PUBLISHED_RATIOS",
    "BudgetPoint",
    "Confidence",
    "ConfidenceChoice",
    "ExitRow",
    "ExitScores",
    "Front",
    "FrontPoint",
    "FrontReport",
    "Guarantee",
    "GuaranteedPoint",
    "Measure",
    "StaticReference",
    "ThresholdRow",
    "ThresholdTable",
    "Thresholds",
    "calibrated_front",
    "candidate_thresholds",
    "checked_budgets",
    "choose_confidence",
    "default_budgets",
    "exit_indices",
    "fit_temperatures",
    "front_area",
    "geometric_shares",
    "guaranteed_thresholds",
    "hypervolume",
    "lattice_gap",
    "make_report",
    "margin",
    "max_probability",
    "measure_point",
    "negative_entropy",
    "points_at_budgets",
    "score_exits",
    "score_in_chunks",
    "single_exit_thresholds",
    "solve_front",
    "split_calibration",
    "thresholds_for_budgets",
    "thresholds_for_shares",
    "transfer_front",
]
