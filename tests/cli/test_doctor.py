"""The doctor tells what is here."""

from collections.abc import Callable

Ibot = Callable[..., tuple[int, str, str]]


def test_doctor_tells_what_is_fast(ibot: Ibot) -> None:
    code, stdout, _ = ibot("doctor")
    assert code == 0
    for word in ("torch", "GFLOP/s", "--dtype auto is", "cache", "extra dev"):
        assert word in stdout
