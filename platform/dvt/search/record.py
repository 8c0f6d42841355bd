"""A search's folder: what was asked for, and what was found so far, read back from the study and the trials.

The folder holds `search.yaml` (the space with its whole base recipe), `study.db` (unless the study is in a database of
its own), `run.json` (the MLflow run that it reports to) and `trials/<number>/`.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from dvt.config import ConfigError, Problem, RunConfig, to_dict
from dvt.search.load import space_from_dict
from dvt.search.results import SearchResult, TrialResult
from dvt.search.space import Space
from dvt.search.study import CandidateStudy
from dvt.search.training import Listed, TrainingChoice
from dvt.search.trial import read_epochs, trial_folder
from dvt.train.past_run import find_past_folder
from dvt.train.storage import Asked, RunFolder, open_folder

SEARCH = "search.yaml"
# A search may be asked for more trials, or more at a time, than it was begun with.
_FREE = ("base.run", "base.cluster", "search.num_trials", "search.max_parallel", "search.study_uri")


def open_search_folder(space: Space, run: RunConfig) -> RunFolder:
    """The folder of the newest search of this space, or a new one; held by this process until it ends.

    Raises:
        ConfigError: If the storage cannot be used, or `run.name` names something else.
    """
    return open_folder(Asked(f"{space.name}-search", SEARCH, space_tree(space), _FREE), run)


def open_study(space: Space, folder: RunFolder, **options: Any) -> CandidateStudy:
    """The study of a search.

    Args:
        space: What is searched.
        folder: The search's.
        options: More arguments of `CandidateStudy`.

    Raises:
        ConfigError: If its database cannot be used, or is to be a file in a bucket.
    """
    uri = space.search.study_uri
    if uri is None and not folder.is_local:
        rule = f"must be a database such as postgresql://HOST/NAME where runs are kept in {folder.address}, got null"
        raise ConfigError([Problem("search.study_uri", rule)])
    return CandidateStudy(space, uri or f"sqlite:///{folder.path}/study.db", folder.name, **options)


def read_search(address: str) -> tuple[Space, RunFolder]:
    """The space and the folder of a search that was begun.

    Args:
        address: A path or an `s3://` address, as the search printed it.

    Raises:
        CheckpointError: If the storage cannot be reached.
        ConfigError: If there is no search, or what was asked for cannot be read.
    """
    folder = find_past_folder(address, SEARCH)
    if folder is None:
        rule = f"must be the folder of a search, which holds {SEARCH}, got {address}; `dvt search run` prints it"
        raise ConfigError([Problem("FOLDER", rule)])
    return space_from_dict(yaml.safe_load(folder.read(SEARCH)), Path()), folder


def read_result(space: Space, folder: RunFolder, study: CandidateStudy) -> SearchResult:
    """What a search has found so far."""
    trials, reference = [], None
    for candidate, trial in study.candidates():
        epochs = read_epochs(trial_folder(folder, candidate.number))
        state, why = study.state_of(trial), study.why_failed(trial)
        trials.append(TrialResult(candidate.number, state, candidate.recipe, candidate.params, epochs, why))
        if study.is_first_point(trial) and epochs:
            reference = candidate.number
    return SearchResult(folder.name, space.budgets, tuple(trials), reference, study.refused())


def space_tree(space: Space) -> dict[str, Any]:
    """A space as the fields of a file that needs no other; `space_from_dict` reads it back to an equal one."""
    tree: dict[str, Any] = {"name": space.name, "base": to_dict(space.base)}
    for name in ("cascade", "constraints", "budgets", "search"):
        tree[name] = to_dict(getattr(space, name))
    tree["training"] = {path: _choice_tree(choice) for path, choice in space.training.items()}
    tree["first_points"] = [to_dict(replace(recipe, name=space.base.name)) for recipe in space.first_points]
    return tree


def _choice_tree(choice: TrainingChoice) -> Any:
    return list(choice.values) if isinstance(choice, Listed) else to_dict(choice)
