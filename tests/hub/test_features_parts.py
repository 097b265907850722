"""A part's share of the shards, however it is told."""

import pytest

from ibot_hub.errors import UsageError
from ibot_hub.features.parts import Part


def test_parts_share_out_all_shards() -> None:
    shares = [list(Part(index, 3).shards(10)) for index in range(3)]
    assert shares == [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]]


def test_parts_of_a_part_share_out_that_part() -> None:
    whole = list(Part(1, 2).shards(20))
    assert sorted(shard for index in range(3) for shard in Part(1, 2).split(index, 3).shards(20)) == whole


@pytest.mark.parametrize(
    ("environment", "part"),
    [
        ({}, Part(0, 1)),
        ({"RANK": "3", "WORLD_SIZE": "8"}, Part(3, 8)),
        ({"SLURM_ARRAY_TASK_ID": "12", "SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_COUNT": "4"}, Part(2, 4)),
        (
            {"SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_STEP": "2", "SLURM_ARRAY_TASK_COUNT": "4"},
            Part(2, 4),
        ),
        ({"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "4"}, Part(1, 4)),
    ],
)
def test_read_from_the_environment(environment: dict[str, str], part: Part) -> None:
    assert Part.from_environment(environment) == part


@pytest.mark.parametrize("task", ["3", "9"])
def test_arrays_with_gaps_are_refused(task: str) -> None:
    environment = {"SLURM_ARRAY_TASK_ID": task, "SLURM_ARRAY_TASK_STEP": "2", "SLURM_ARRAY_TASK_COUNT": "4"}
    with pytest.raises(UsageError, match="say --part I/N"):
        Part.from_environment(environment)


@pytest.mark.parametrize("text", ["2/2", "1", "a/b", "-1/2", "1/0", "0/2 "])
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="it must be I/N"):
        Part.parse(text)
