"""Several processes and machines on one Optuna study: who works on what, and whose work is taken over."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

Study = Any  # optuna.Study
Trial = Any  # optuna.trial.Trial, or FrozenTrial

_WORKER = "worker"
_POLL_SECONDS = 0.5
_UNSIGNED = timedelta(minutes=1)
_ELSEWHERE = timedelta(hours=1)


def next_trial(study: Study, trials: int) -> Trial | None:
    """Return a trial to work on, signed by this process; None once the study has enough complete ones.

    While others work on the last ones it waits, and takes over what one of them leaves behind when it dies.

    Args:
        study: the study.
        trials: how many it is to have; where several begin at the same moment a few more.
    """
    from optuna.trial import TrialState

    while True:
        requeue_stale(study)
        kept = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.RUNNING))
        if sum(trial.state == TrialState.COMPLETE for trial in kept) >= trials:
            return None
        if len(kept) < trials:
            trial = study.ask()
            trial.set_user_attr(_WORKER, _this_process())
            return trial
        time.sleep(_POLL_SECONDS)


def give_up(study: Study, trial: Trial, parameters: Mapping[str, Any]) -> None:
    """End a trial without a result, and put its subnet in the queue again.

    Args:
        study: the study.
        trial: a running one.
        parameters: what it was to try; those that are not known are drawn anew.
    """
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    try:
        study.tell(getattr(trial, "number", trial), state=TrialState.FAIL)
    except (ValueError, UpdateFinishedTrialError):  # another process was faster
        return
    if parameters:
        study.enqueue_trial(dict(parameters))


def requeue_stale(study: Study) -> None:
    """Put the subnets of trials in the queue again whose process is dead.

    Of this machine's processes that is known. Those of others are taken for dead an hour after their trial began, and
    a trial that nobody has signed after a minute.
    """
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if not _is_alive(trial.user_attrs.get(_WORKER), datetime.now() - trial.datetime_start):
            give_up(study, trial, trial.system_attrs.get("fixed_params", {}) | trial.params)


def _this_process() -> str:
    return f"{socket.gethostname()} {os.getpid()} {_started(os.getpid())}"


def _is_alive(worker: str | None, age: timedelta) -> bool:
    if worker is None:
        return age < _UNSIGNED
    host, pid, started = worker.split(" ")
    if host != socket.gethostname():
        return age < _ELSEWHERE
    return _started(int(pid)) == started


def _started(pid: int) -> str:
    """When a process of this machine began, as the kernel counts; ``dead`` where there is none.

    Numbers of processes come again, after a restart at the latest. Where the kernel does not say more (not Linux),
    any process of this number counts.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return "dead"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return "dead"
    except PermissionError:
        pass
    return "unknown"
