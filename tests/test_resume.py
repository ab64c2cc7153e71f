"""Killed at any moment, a training goes on to the same bits: see resume_training.py."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes it forks")
HERE = Path(__file__).parent


class Runner:
    """Hands jobs to the script, and knows what comes out of them."""

    def __init__(self, process, base):
        self.process, self.base, self.results = process, base, {}

    def run(self, **job):
        self.process.stdin.write(json.dumps({k: str(v) if k == "folder" else v
                                             for k, v in job.items()}) + "\n")  # fmt: skip
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def finish(self, folder, **options):
        """Run to the end what may have been killed before, and read the result."""
        assert self.run(folder=folder, **options) == 0
        return json.loads((folder / "result.json").read_text())

    def undisturbed(self, **options):
        key = json.dumps(options, sort_keys=True)
        if key not in self.results:
            self.results[key] = self.finish(self.base / str(len(self.results)), **options)
        return self.results[key]


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
    process = subprocess.Popen(
        [sys.executable, str(HERE / "resume_training.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    yield Runner(process, tmp_path_factory.mktemp("undisturbed"))
    process.stdin.close()
    assert process.wait(30) == 0


def count_events(n_epochs=2, n_train=9, n_valid=4):
    """Events of the first fit: steps are skipped at every other batch, but the last one steps."""
    per_epoch = 2 + 5 * n_train + (n_train + 1) // 2 + 4 * n_valid
    return 3 + n_epochs * per_epoch


draw = random.Random(7)
EVENTS = sorted(draw.sample(range(1, count_events() + 60), 20))  # of both fits


@pytest.mark.parametrize("event", EVENTS)
def test_killed_at_an_event(runner, tmp_path, event):
    options = {"every": 1 + event % 3, "generator": event % 2 == 0}
    code = runner.run(folder=tmp_path, event=event, late=event % 5 > 1, **options)
    assert code == -signal.SIGKILL
    assert runner.finish(tmp_path, **options) == runner.undisturbed(**options)


@pytest.mark.parametrize("how", ["half", "replace"])
@pytest.mark.parametrize("n", [1, 4, 7, 13])
def test_killed_while_writing(runner, tmp_path, how, n):
    assert runner.run(folder=tmp_path, **{how: n}) == -signal.SIGKILL
    assert len(list(tmp_path.rglob("*.tmp"))) == 1  # the kill did come in between
    result = runner.finish(tmp_path)
    assert result == runner.undisturbed()
    assert not [f for f in (tmp_path / "checkpoints").iterdir() if f.suffix == ".tmp"]


def test_killed_again_and_again(runner, tmp_path):
    codes = []
    while len(codes) < 40 and 0 not in codes:
        codes.append(runner.run(folder=tmp_path, event=37, every=1))
    assert set(codes[:-1]) == {-signal.SIGKILL} and codes[-1] == 0 and len(codes) > 5
    assert runner.finish(tmp_path, every=1) == runner.undisturbed(every=1)


@pytest.mark.parametrize("seconds", [0.02, 0.05, 0.08, 0.12, 0.2])
def test_killed_from_outside(runner, tmp_path, seconds):
    runner.run(folder=tmp_path, seconds=seconds)
    assert runner.finish(tmp_path) == runner.undisturbed()


def test_a_training_that_stopped_early_is_not_continued(runner, tmp_path):
    undisturbed = runner.undisturbed(patience=1)
    assert runner.run(folder=tmp_path, patience=1, event=70) == -signal.SIGKILL
    assert runner.finish(tmp_path, patience=1) == undisturbed
    assert runner.finish(tmp_path, patience=1) == undisturbed  # the same script once more


def test_without_random_numbers_it_is_another_training(runner, tmp_path):
    """So that the tests above cannot pass for a wrong reason."""
    assert runner.run(folder=tmp_path, event=70) == -signal.SIGKILL
    assert runner.finish(tmp_path, careless=True)["digest"] != runner.undisturbed()["digest"]
