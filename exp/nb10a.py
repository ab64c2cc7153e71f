"""Sweeps: many training runs, one database

By the end you will have a search for good settings that any number of processes share and that continues where it stopped, and a test that tells a right sampler from a wrong one.
"""

# cell 0195a48a a6284e · Sweeps: many training runs, one database
from __future__ import annotations

# generated from nbs/10a_sweeps.ipynb: do not edit · cfb0ac
__all__ = [
    "sweep_storage",
    "run_sweep",
]
__dir__ = __all__.copy  # what completion offers

# cell 0195a48a 6e5e6c · Sweeps: many training runs, one database
from collections.abc import Callable
from pathlib import Path
from typing import Any

from exp.nb00i import build_folder


# cell c1ca0787 67ac5f · A search by Optuna
def sweep_storage(url: str = "") -> Any:
    """Open the database of sweeps: by default a SQLite file, `build/sweeps.db`."""
    from filelock import FileLock
    from optuna.storages import RDBStorage

    url = url or f"sqlite:///{build_folder() / 'sweeps.db'}"
    if not url.startswith("sqlite:///"):
        return RDBStorage(url)
    file = Path(url.removeprefix("sqlite:///"))
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock", timeout=60):  # one process makes the tables
        return RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}})


# cell 662c38df 7b1604 · A search by Optuna
def run_sweep(objective: Callable[[Any], float], n_trials: int, name: str, storage: str = "",
              seed: int | None = None) -> Any:
    """Try settings until the sweep of this name has `n_trials` finished trials; return the study.

    `objective` gets an optuna trial, asks it for settings, and returns the number to minimise.
    Trials in the storage count; several processes may run this at once, and together overshoot by
    less than one trial each. `seed` is for a single process: two with one seed draw the same.
    Source: Akiba and others 2019; Bergstra and others 2011 for the sampler.
    """
    try:
        import optuna
    except ModuleNotFoundError:
        raise ModuleNotFoundError("run_sweep needs optuna: pip install "
                                  "'ground-up[sweep]'") from None
    finished = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED,
                optuna.trial.TrialState.FAIL)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=5)
    study = optuna.create_study(study_name=name, storage=sweep_storage(storage),
                                sampler=sampler, load_if_exists=True)
    if len(study.get_trials(deepcopy=False, states=finished)) < n_trials:
        enough = optuna.study.MaxTrialsCallback(n_trials, states=finished)
        study.optimize(objective, callbacks=[enough])
    return study
