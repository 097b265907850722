"""Ground truth is read from pickles in the form of the published ones, and nothing that a pickle asks for runs."""

import operator
import os
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ibot_hub.errors import UsageError
from ibot_hub.evaluation.groundtruth import GroundTruth, Query, read_ground_truth

PLAIN: dict[str, Any] = {
    "imlist": ["a_1", "a_2", "b_1"],
    "qimlist": ["q_1", "q_2"],
    "gnd": [
        {"bbx": [10.5, 20, 110, 220], "easy": [0], "hard": [1], "junk": [2]},
        {"bbx": [0, 0, 50, 60], "easy": [], "hard": [2], "junk": []},
    ],
}
EXPECTED = GroundTruth(
    ("a_1", "a_2", "b_1"),
    (Query("q_1", (10.5, 20, 110, 220), (0,), (1,), (2,)), Query("q_2", (0, 0, 50, 60), (), (2,), ())),
)


def written(folder: Path, content: Any, protocol: int = 4) -> Path:
    path = folder / "gnd.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def with_first(**changes: Any) -> dict[str, Any]:
    return PLAIN | {"gnd": [PLAIN["gnd"][0] | changes, PLAIN["gnd"][1]]}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_lists_and_arrays_mean_the_same(tmp_path: Path, protocol: int) -> None:
    assert read_ground_truth(written(tmp_path, PLAIN, protocol)) == EXPECTED
    first, second = PLAIN["gnd"]
    arrays = PLAIN | {
        "gnd": (
            {name: np.asarray(value) for name, value in first.items()},
            {"bbx": np.array(second["bbx"], ">f4"), "easy": np.array([], np.uint16), "hard": [np.int64(2)], "junk": []},
        )
    }
    assert read_ground_truth(written(tmp_path, arrays, protocol)) == EXPECTED


def test_a_pickle_of_python_2_is_read(tmp_path: Path) -> None:
    """Its strings are bytes, and its NumPy is an older one."""
    dtype = b"cnumpy\ndtype\n(S'i8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
    zero = b"I00\nS'" + rb"\x00" * 8 + b"'\n"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I1\nt" + dtype + zero + b"tb"
    content = b"(dS'imlist'\n(lS'a'\nasS'qimlist'\n(lS'q'\nasS'gnd'\n(l(dS'easy'\n" + array + b"sS'hard'\n(lsS'junk'\n(lsas."
    path = tmp_path / "gnd.pkl"
    path.write_bytes(content)
    assert read_ground_truth(path) == GroundTruth(("a",), (Query("q", None, (0,), (), ()),))


def test_a_query_without_a_box_is_all_of_its_image(tmp_path: Path) -> None:
    assert read_ground_truth(written(tmp_path, with_first(bbx=None))).queries[0].box is None


class Runs:
    """What a pickle can ask for: any function, with any arguments."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.asked = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.asked


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (lambda sign: (os.system, f"touch '{sign}'"), r"asks for posix\.system, which no ground truth needs; nothing in it was run"),
        (lambda sign: (subprocess.check_call, ["touch", sign]), r"asks for \w+\.check_call"),
        (lambda sign: (exec, f"open({sign!r}, 'w')"), r"asks for \w+\.exec"),
        (lambda sign: (open, sign, "w"), r"asks for \w+\.open"),
        (lambda sign: (operator.attrgetter, "system"), r"asks for operator\.attrgetter"),
        (lambda sign: (np.load, sign), r"asks for numpy\.load"),
    ],
)
def test_what_wants_to_run_is_refused_and_does_not_run(tmp_path: Path, asked: Callable[[str], Any], said: str) -> None:
    sign = tmp_path / "it ran"
    for protocol in (0, 4):
        path = written(tmp_path, PLAIN | {"imlist": [Runs(*asked(str(sign)))]}, protocol)
        with pytest.raises(UsageError, match=said):
            read_ground_truth(path)
        assert not sign.exists()


def test_what_is_refused_would_have_run(tmp_path: Path) -> None:
    sign = tmp_path / "it ran"
    pickle.loads(written(tmp_path, Runs(os.system, f"touch '{sign}'")).read_bytes())
    assert sign.exists()


def test_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="asks for an array of type 'O8', which no ground truth needs"):
        read_ground_truth(written(tmp_path, with_first(easy=np.array([[], 1], dtype=object))))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1, 2], "it holds a list, not a dict"),
        ({name: value for name, value in PLAIN.items() if name != "gnd"}, "it has no 'gnd'"),
        (PLAIN | {"imlist": "a b"}, "imlist is a str, not a list"),
        (PLAIN | {"imlist": [1, 2, 3]}, "1 is no name of an image"),
        (PLAIN | {"qimlist": ["q_1"]}, "qimlist has 1 queries and gnd 2"),
        (PLAIN | {"gnd": [1, 2]}, "what gnd has for q_1 is a int, not a dict"),
        (PLAIN | {"gnd": [{"ok": [0], "junk": []}] * 2}, "of the first version of the benchmark"),
        (with_first(easy=[3]), "3 of q_1 is no place among 3 images"),
        (with_first(junk=[True]), "True of q_1 is no place"),
        (with_first(hard=[0.5]), "0.5 of q_1 is no place"),
        (with_first(easy=np.array([[0]])), r"\[0\] of q_1 is no place"),
        (with_first(bbx=[0, 0, 10]), r"the bbx of q_1 is \[0.0, 0.0, 10.0\], not left, top, right and bottom"),
        (with_first(bbx=[9, 0, 5, 5]), "the bbx of q_1 is"),
        (with_first(bbx=[0, 0, 5, float("nan")]), "the bbx of q_1 is"),
    ],
)
def test_other_forms_are_refused(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(UsageError, match=f"is no ground truth of revisited Oxford or Paris: .*{said}"):
        read_ground_truth(written(tmp_path, content))


def test_what_is_no_pickle_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_ground_truth(tmp_path / "missing.pkl")
    path = written(tmp_path, PLAIN)
    whole = path.read_bytes()
    for damaged in (b"", b"PK\x03\x04 no pickle", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(UsageError, match="is no pickle of plain numbers and names"):
            read_ground_truth(path)
    path.write_bytes(b"\x80\x02X\x01\x00\x00\x00aQ.")  # an object that is kept outside of the pickle
    with pytest.raises(UsageError, match="asks for the outside object 'a'"):
        read_ground_truth(path)
    monkeypatch.setattr("ibot_hub.evaluation.groundtruth.MAX_BYTES", len(whole) - 1)
    path.write_bytes(whole)
    with pytest.raises(UsageError, match="has more than"):
        read_ground_truth(path)


def test_endless_lists_are_refused(tmp_path: Path) -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(UsageError, match="is no pickle of plain numbers and names"):
        read_ground_truth(written(tmp_path, PLAIN | {"extra": endless}))
