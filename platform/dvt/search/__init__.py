"""Searching cascades: declarative spaces of recipes, which any searcher's trial can choose from."""

from dvt.search.cascades import Backbone, CascadeSet, Shape
from dvt.search.choices import BudgetRange, CascadeChoices, Constraints
from dvt.search.limits import CascadeCost, IllegalCandidate, Limits
from dvt.search.load import load_space, space_from_dict
from dvt.search.space import Space
from dvt.search.suggester import RandomSuggester, Suggester
from dvt.search.training import Listed, Range, TrainingChoice, WholeRange

__all__ = [
    "Backbone",
    "BudgetRange",
    "CascadeChoices",
    "CascadeCost",
    "CascadeSet",
    "Constraints",
    "IllegalCandidate",
    "Limits",
    "Listed",
    "RandomSuggester",
    "Range",
    "Shape",
    "Space",
    "Suggester",
    "TrainingChoice",
    "WholeRange",
    "load_space",
    "space_from_dict",
]
