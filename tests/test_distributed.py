"""The same script alone and on two processes: equal weights, equal metrics, one log."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from two_processes import environment, run_two

from exp.nb00 import test_eq, test_near

HERE = Path(__file__).parent
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.cuda,
    ),
]
pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="torch without distributed"
)


def run(folder, processes, device):
    launcher = TORCHRUN if processes == 2 else []
    command = [sys.executable, *launcher, HERE / "distributed_train.py", folder]
    done = subprocess.run(
        command, env=environment(device), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What distributed_train.py makes of a kind of model on so many processes of a device."""
    folders = {}

    def find(kind, processes, device):
        if (processes, device) not in folders:  # one start trains all kinds
            folders[processes, device] = tmp_path_factory.mktemp("trained")
            run(folders[processes, device], processes, device)
        folder = folders[processes, device] / kind
        tensors = [load_file(folder / f"rank{rank}.safetensors") for rank in range(processes)]
        return tensors, (folder / "log.csv").read_text().splitlines()

    return find


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["plain", "accumulated"])
def test_two_processes_end_as_one_with_the_same_global_batches(trained, kind, device):
    [alone], log = trained(kind, 1, device)
    together, log_of_two = trained(kind, 2, device)
    assert [int(t.pop("world_size")) for t in (alone, *together)] == [1, 2, 2]
    test_eq(together[0], together[1])
    test_near(together[0], alone, tol=1e-5)
    assert "evaluate_accuracy" in alone
    assert [len(log), len(log_of_two)] == [4, 4]  # a head and three epochs, written once


@pytest.mark.parametrize("device", DEVICES)
def test_copies_with_batch_norm_stay_equal(trained, device):
    together, _ = trained("batch_norm", 2, device)
    test_eq(together[0], together[1])


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of two processes found in the cases of distributed_cases.py."""
    folder = tmp_path_factory.mktemp("cases")
    run_two(HERE / "distributed_cases.py", folder)
    results = [json.loads((folder / f"rank{r}.json").read_text()) for r in range(2)]
    return {name: [result[name] for result in results] for name in results[0]}


def test_processes_may_use_different_parameters_in_a_step(found):
    first, second = found["experts"]
    assert first["weights"] == second["weights"] and first["difference"] < 1e-6
    first, second = found["one_expert_for_all"]
    assert first == second and first["same"]


@pytest.mark.parametrize(
    "name, what",
    [
        ("parameters_in_another_order", "parameter of the optimizer is ('0.weight'"),
        ("another_number_of_batches", "number of training batches is 3 on process 0 and 4"),
        ("loaders_that_are_not_shared", "first batch of dls.valid is the same on all 2 processes"),
        ("nothing_joins_the_processes", "add DistributedCallback"),
    ],
)
def test_processes_that_cannot_train_together_are_refused_on_all(found, name, what):
    first, second = found[name]
    assert first == second and first.startswith("ValueError") and what in first


def test_the_others_do_not_wait_for_a_process_that_left(found):
    stayed, left = found["one_process_cancels"]
    assert "process 1 has left the fit" in stayed and left == {"left": True}


def test_all_stop_when_the_loss_of_one_is_not_finite(found):
    first, second = found["all_stop_when_one_loss_is_nan"]
    assert first == second and first["steps"] == 2 and "nan] on 2 processes" in first["said"]
    assert all(w == w for w in first["weights"])


def test_a_fit_may_end_early_everywhere_and_one_process_may_predict(found):
    first, second = found["all_end_together"]
    assert first["epochs"] == second["epochs"] == 1 and first["weights"] == second["weights"]
    assert first["alone"] is not None


def test_all_processes_validate_the_same_model(found):
    first, second = found["all_validate_the_same_model"]
    assert first == second and len(first["statistics"]) == 2


def test_gradients_and_figures_are_weighted_by_what_the_loss_divided_by(found):
    for case in ("losses", "accumulated_losses"):
        first, second = found[f"{case}_that_divide_by_something_else"]
        assert first == second and first["difference"] < 1e-6
    first, second = found["a_share_of_nothing_but_padding"]
    assert first == second and first["finite"]


def test_torchs_own_sampler_is_told_the_epoch(found):
    shares = [result["epochs"] for result in found["torchs_own_sampler"]]
    assert (
        sorted(shares[0][0] + shares[1][0])
        == sorted(shares[0][1] + shares[1][1])
        == [float(i) for i in range(40)]
    )
    assert all(first != second for first, second in shares)
    assert len({str(result["weights"]) for result in found["torchs_own_sampler"]}) == 1


def test_metrics_that_are_no_means_are_merged(found):
    for together, alone in found["metrics_that_are_no_means"]:
        assert together.keys() == alone.keys() and "theirs" in alone
        for name, value in together.items():
            assert torch.tensor(value).allclose(torch.tensor(alone[name]), atol=1e-6), name
