"""A search's folder: what was asked for, and what was found so far, read back from the study and the trials.

The folder holds `search.yaml` (the space with its whole base recipe), `study.db` (unless the study is in a database of
its own), `study.txt` (the study's name), `run.json` (the MLflow run that it reports to) and `trials/<number>/`; in mode
supernet also `supernet/`, where shared weights are trained, and `inherited/`, what cascades are worth with them.
"""

import os
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

from dvt.config import ConfigError, Problem, RunConfig, to_dict, yaml_text
from dvt.config.secrets import without_credentials
from dvt.search.finetune import finetuned_space, measuring_space
from dvt.search.inherited import INHERITED, read_inherited
from dvt.search.load import space_from_dict
from dvt.search.results import SearchResult, SharedResult, TrialResult
from dvt.search.space import Space
from dvt.search.study import CandidateStudy
from dvt.search.supernet import SHARED
from dvt.search.training import Listed, TrainingChoice
from dvt.search.trial import read_epochs, trial_folder
from dvt.train.cost import read_seconds
from dvt.train.past_run import find_past_folder
from dvt.train.storage import Asked, RunFolder, open_folder

SEARCH, STUDY = "search.yaml", "study.txt"
STUDY_VARIABLE = "DVT_STUDY_URI"
# A search may be asked for more trials, or more at a time, than it was begun with.
_FREE = ("base.run", "base.cluster", "search.num_trials", "search.max_parallel", "search.study_uri")


def open_search_folder(space: Space, run: RunConfig) -> RunFolder:
    """The folder of the newest search of this space, or a new one; held by this process until it ends.

    Raises:
        ConfigError: If the storage cannot be used, or `run.name` names something else.
    """
    return open_folder(Asked(f"{space.name}-search", SEARCH, space_tree(space), _FREE), run)


def open_study(space: Space, folder: RunFolder, part: str = "", **options: Any) -> CandidateStudy:
    """A study of a search.

    Args:
        space: What its candidates are chosen from.
        folder: The search's.
        part: Which of a search that has several; none is that of the trials.
        options: More arguments of `CandidateStudy`.

    Raises:
        ConfigError: If its database cannot be used, or is to be a file in a bucket.
    """
    uri = _with_credentials(space.search.study_uri)
    if uri is None and not folder.is_local:
        rule = f"must be a database such as postgresql://HOST/NAME where runs are kept in {folder.address}, got null"
        raise ConfigError([Problem("search.study_uri", rule)])
    name = _study_name(folder, is_shared=uri is not None)
    name = f"{name}-{part}" if part else name
    return CandidateStudy(space, uri or f"sqlite:///{folder.path}/study.db", name, **options)


def _with_credentials(uri: str | None) -> str | None:
    """The study's address, with the password that DVT_STUDY_URI has for it: a search's folder keeps none."""
    given = os.environ.get(STUDY_VARIABLE, "").strip()
    return given if uri is not None and given and without_credentials(given) == without_credentials(uri) else uri


def _study_name(folder: RunFolder, *, is_shared: bool) -> str:
    """The name that a search's study was begun with, whatever the folder is called today."""
    if not folder.has(STUDY):
        # A database that others use too may hold the study of a folder that is called the same elsewhere.
        folder.write(STUDY, f"{folder.name}-{secrets.token_hex(4)}" if is_shared else folder.name)
    return folder.read(STUDY).strip()


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
    return space_from_dict(yaml_text.parse(folder.read(SEARCH)), Path()), folder


def read_result(space: Space, folder: RunFolder) -> SearchResult:
    """What a search has found so far.

    Raises:
        ConfigError: If the database of its study cannot be used.
    """
    is_shared = space.search.mode == "supernet"
    study = open_study(finetuned_space(space) if is_shared else space, folder)
    trials, reference = [], None
    for candidate, trial in study.candidates():
        epochs = read_epochs(trial_folder(folder, candidate.number))
        state, why = study.state_of(trial), study.why_failed(trial)
        trials.append(TrialResult(candidate.number, state, candidate.recipe, candidate.params, epochs, why))
        if study.is_first_point(trial) and epochs:
            reference = candidate.number
    result = SearchResult(folder.name, space.budgets, tuple(trials), reference, study.refused())
    return replace(result, shared=read_shared(space, folder)) if is_shared else result


def read_shared(space: Space, folder: RunFolder) -> SharedResult:
    """What a search has found so far with shared weights, before its trials."""
    study = open_study(measuring_space(space), folder, INHERITED)
    inherited = [
        TrialResult(candidate.number, "finished", candidate.recipe, candidate.params, (measured,))
        for candidate, _ in study.candidates()
        if (measured := read_inherited(folder, candidate.number))
    ]
    train_s = space.base.cluster.most_workers * sum(read_seconds(folder.child(SHARED)))
    return SharedResult(space.base, tuple(inherited), train_s)


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
