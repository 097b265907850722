"""A file of the cache is known again, and a changed one is found out."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ibot_hub.errors import WeightsError
from ibot_hub.hub.record import Record, check_unchanged, read_record, record_file, sha256, table_sha256


def recorded(path: Path) -> Record:
    status = path.stat()
    return Record("http://a", "0" * 64, False, sha256(path), status.st_size, status.st_mtime_ns, table_sha256(path))


def test_changes_are_found(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(3)}, path)
    record = recorded(path)
    check_unchanged(path, record)
    os.utime(path, ns=(0, record.modified + 1))
    check_unchanged(path, record)  # copied, but the same to the byte
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    os.utime(path, ns=(0, record.modified + 1))
    with pytest.raises(WeightsError, match="it was written to"):
        check_unchanged(path, record)
    save_file({"b": torch.ones(3)}, path)
    os.utime(path, ns=(0, record.modified))
    with pytest.raises(WeightsError, match="its tensor table is another"):
        check_unchanged(path, record)
    save_file({"a": torch.ones(40)}, path)
    with pytest.raises(WeightsError, match="bytes, not"):
        check_unchanged(path, record)


def test_records_that_are_missing_or_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    assert read_record(path) is None
    record_file(path).write_text('{"url": 1')
    with pytest.raises(WeightsError, match="is damaged; remove it"):
        read_record(path)
