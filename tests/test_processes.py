import pytest

from cifar_pl.machine import processes


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_STEP_ID": "0"}, "give --ntasks-per-node"),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_NTASKS_PER_NODE": "2"}, "put srun before python"),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_NTASKS_PER_NODE": "2", "SLURM_STEP_ID": "0"}, ""),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, ""),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "WORLD_SIZE": "8"}, ""),  # torchrun under srun
        ({"WORLD_SIZE": "2", "LOCAL_RANK": "1"}, ""),
    ],
)
def test_tasks_that_srun_did_not_start_by_machine_are_told_what_to_type(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], words: str
) -> None:
    for name in ("WORLD_SIZE", *processes.RANKS, "SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    said = processes.misstarted()
    assert words in said
    assert bool(said) == bool(words)


@pytest.mark.parametrize(
    ("environment", "started", "rank"),
    [
        ({}, 1, 0),
        ({"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"}, 4, 3),  # torchrun, two machines
        ({"WORLD_SIZE": "2", "LOCAL_RANK": "1", "NODE_RANK": "0"}, 2, 1),  # Lightning's second process
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "2", "SLURM_LOCALID": "0"}, 4, 2),  # srun
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "WORLD_SIZE": "8", "RANK": "5"}, 8, 5),  # torchrun under srun
        ({"SLURM_NTASKS": "4"}, 1, 0),  # tasks were asked for, but none of them is this process
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "bash"}, 1, 0),  # a shell on a node
    ],
)
def test_processes_are_counted_as_their_starter_says(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], started: int, rank: int
) -> None:
    for name in ("WORLD_SIZE", *processes.RANKS, "SLURM_NTASKS", "SLURM_JOB_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (processes.started(), processes.rank()) == (started, rank)
