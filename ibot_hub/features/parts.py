"""A part: one worker's share of the shards."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from ibot_hub.errors import UsageError


@dataclass(frozen=True)
class Part:
    """Part `index` of `count`: shard k belongs to part k mod count, so parts never share a shard."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """ "I/N" with 0 <= I < N; raises UsageError for anything else."""
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if not match or int(match[1]) >= int(match[2]):
            raise UsageError(f"part is {text!r}; it must be I/N with I from 0 to N-1, such as 0/4.")
        return cls(int(match[1]), int(match[2]))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """The share of this process under torchrun (RANK of WORLD_SIZE) or in a Slurm array; else the whole.

        Raises UsageError for an array whose numbers have gaps.
        """
        if "RANK" in environment and "WORLD_SIZE" in environment:
            return cls.parse(f"{environment['RANK']}/{environment['WORLD_SIZE']}")
        if "SLURM_ARRAY_TASK_ID" in environment and "SLURM_ARRAY_TASK_COUNT" in environment:
            task, count = int(environment["SLURM_ARRAY_TASK_ID"]), int(environment["SLURM_ARRAY_TASK_COUNT"])
            first, step = int(environment.get("SLURM_ARRAY_TASK_MIN", "0")), int(environment.get("SLURM_ARRAY_TASK_STEP", "1"))
            index, rest = divmod(task - first, step)
            if rest or not 0 <= index < count:
                raise UsageError(f"SLURM_ARRAY_TASK_ID {task} is not one of {count} numbers in even steps; say --part I/N for each task.")
            return cls(index, count)
        return cls()

    def split(self, index: int, count: int) -> "Part":
        """Sub-part `index` of `count` of this part."""
        return Part(self.index + self.count * index, self.count * count)

    def shards(self, total: int) -> range:
        """Its shards out of `total`."""
        return range(self.index, total, self.count)
