"""Every way a download fails, over real HTTP on loopback."""

import random
import socket

import pytest

from ibot_hub.errors import DownloadError
from ibot_hub.hub import download as module
from ibot_hub.hub.download import CHUNK, PAUSES, download, megabytes

BODY = random.Random(0).randbytes(1_000_000)
HALF = 2 * CHUNK  # what is on disk where the connection breaks off there
VERSION = {"ETag": '"1"'}


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """The pauses that were made, none of which lasted."""
    made = []
    monkeypatch.setattr(module.time, "sleep", made.append)
    monkeypatch.delenv("HF_HUB_DOWNLOAD_TIMEOUT", raising=False)
    return made


@pytest.fixture
def target(tmp_path):
    return tmp_path / "file.pth"


def _ranges(server):
    return [request.range for request in server.gets("/file")]


def test_a_file_arrives_whole_and_alone_after_one_line(server, target, capsys):
    server.serve("/file", BODY)
    download(server.url + "/file", target, "file: {size} from there", predicted=7)
    assert target.read_bytes() == BODY
    assert list(target.parent.iterdir()) == [target]
    assert capsys.readouterr().err == "file: 1 MB from there\n"  # no bar where stderr is no terminal
    download(server.url + "/file", target, "")
    assert len(server.gets("/file")) == 1


def test_the_predicted_size_is_shown_where_the_server_says_none(server, target, capsys):
    server.serve("/file", BODY, sized=False)
    download(server.url + "/file", target, "file: {size}", predicted=343_000_000)
    assert target.read_bytes() == BODY
    assert capsys.readouterr().err == "file: 343 MB\n"


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_in_trouble_is_asked_again_after_growing_pauses(server, target, pauses, status):
    server.serve("/file", BODY, fault_status=status, times=3)
    download(server.url + "/file", target, "")
    assert target.read_bytes() == BODY
    assert pauses == list(PAUSES[:3])
    assert sorted(set(PAUSES)) == list(PAUSES)


@pytest.mark.parametrize("status", [403, 404])
def test_a_refusal_fails_at_once(server, target, status):
    server.serve("/file", BODY, fault_status=status)
    with pytest.raises(DownloadError, match=rf"/file answers {status} .*IBOT_HUB_MIRROR"):
        download(server.url + "/file", target, "")
    assert len(server.gets("/file")) == 1


def test_a_broken_connection_is_resumed(server, target):
    server.serve("/file", BODY, cut=HALF, times=1)
    download(server.url + "/file", target, "")
    assert target.read_bytes() == BODY
    assert _ranges(server) == [None, f"bytes={HALF}-"]


def test_a_stalled_connection_is_resumed(server, target, monkeypatch):
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "0.3")
    server.serve("/file", BODY, stall=HALF, times=1)
    download(server.url + "/file", target, "")
    assert target.read_bytes() == BODY
    assert _ranges(server) == [None, f"bytes={HALF}-"]


def test_attempts_are_not_counted_while_they_get_further(server, target):
    server.serve("/file", BODY, cut=HALF, times=1, most=50_000)
    download(server.url + "/file", target, "")
    assert target.read_bytes() == BODY
    assert len(_ranges(server)) > len(PAUSES) + 2


def test_giving_up_keeps_what_arrived_and_a_later_call_goes_on(server, target, capsys):
    server.serve("/file", BODY, cut=HALF, most=0)  # every part after the first brings nothing
    with pytest.raises(
        DownloadError, match=r"524,288 of 1,000,000 bytes arrived\); 0.524 MB of it are kept, and running this again goes on from there"
    ):
        download(server.url + "/file", target, "file: {size}")
    assert not target.exists()
    assert len(server.gets("/file")) == 1 + 1 + len(PAUSES)
    server.requests.clear()
    server.serve("/file", BODY)
    download(server.url + "/file", target, "file: {size} from there")
    assert target.read_bytes() == BODY
    assert _ranges(server) == [f"bytes={HALF}-"]
    assert capsys.readouterr().err == "file: 1 MB\nfile: 1 MB, going on at 0.524 MB, from there\n"


def test_a_connection_that_always_breaks_off_is_given_up(server, target):
    server.serve("/file", BODY, cut=0)
    with pytest.raises(DownloadError, match=r"\(the connection breaks off\); run this again later\.$"):
        download(server.url + "/file", target, "")


def test_a_server_that_stays_in_trouble_is_given_up(server, target):
    server.serve("/file", BODY, fault_status=503)
    with pytest.raises(DownloadError, match=r"\(the server answers 503 Service Unavailable\); run this again later\.$"):
        download(server.url + "/file", target, "")
    assert len(server.gets("/file")) == 1 + len(PAUSES)


def test_a_stall_for_ever_says_how_long_was_waited(server, target, monkeypatch):
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "0.1")
    server.serve("/file", BODY, stall=0)
    with pytest.raises(DownloadError, match=r"nothing arrives for 0.1 s\); run this again later"):
        download(server.url + "/file", target, "")


def test_a_server_without_ranges_sends_all_again(server, target):
    server.serve("/file", BODY, cut=HALF, times=1, ranges=False)
    download(server.url + "/file", target, "")
    assert target.read_bytes() == BODY
    assert _ranges(server) == [None, f"bytes={HALF}-"]


def _leave_half(server, target, **facts):
    """A download of another BODY that stopped half way, as a killed process leaves it."""
    server.serve("/file", bytes(len(BODY)), cut=HALF, most=0, **facts)
    with pytest.raises(DownloadError):
        download(server.url + "/file", target, "")
    server.requests.clear()
    assert target.with_name("file.pth.partial").stat().st_size == HALF


def test_a_file_that_changed_on_the_server_starts_afresh(server, target):
    _leave_half(server, target)
    server.serve("/file", BODY)
    download(server.url + "/file", target, "")
    assert target.read_bytes() == BODY
    assert _ranges(server) == [f"bytes={HALF}-"]


def test_a_file_without_a_version_starts_afresh(server, target):
    _leave_half(server, target, versioned=False)
    server.serve("/file", BODY, versioned=False)
    download(server.url + "/file", target, "")
    assert target.read_bytes() == BODY
    assert _ranges(server) == [None]


def test_a_weak_etag_is_no_version_but_a_date_is(server, target):
    date = "Tue, 15 Nov 2022 12:45:26 GMT"
    server.serve("/file", BODY, cut=HALF, times=1, headers={"ETag": 'W/"1"', "Last-Modified": date})
    download(server.url + "/file", target, "")
    assert [request.if_range for request in server.gets("/file")] == [None, date]
    assert target.read_bytes() == BODY


def test_a_part_that_is_already_whole_is_fetched_again(server, target):
    server.serve("/file", BODY, headers=VERSION)
    target.with_name("file.pth.partial").write_bytes(BODY)  # killed before the last rename
    target.with_name("file.pth.partial.version").write_text(VERSION["ETag"])
    download(server.url + "/file", target, "")
    assert target.read_bytes() == BODY
    assert _ranges(server) == [f"bytes={len(BODY)}-", None]


def test_another_part_than_asked_for_is_not_taken(server, target):
    _leave_half(server, target, headers=VERSION)
    rest = BODY[: len(BODY) - HALF]  # just as long as what is missing
    server.serve("/file", rest, status=206, headers={"Content-Range": f"bytes 0-{len(rest) - 1}/{len(BODY)}"})
    with pytest.raises(DownloadError, match="the server sent another part of the file than was asked for"):
        download(server.url + "/file", target, "")
    assert not target.exists()


def test_no_connection_is_an_error_of_one_sentence(target):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/file"
        with pytest.raises(DownloadError, match=r"\(no connection: \[Errno 111\] Connection refused\); run this again later\.$"):
            download(url, target, "")


def test_an_address_that_is_none_is_an_error_of_one_sentence(target):
    with pytest.raises(DownloadError, match="is the address right"):
        download("http://", target, "")


def test_a_timeout_that_is_no_number_is_named(target, monkeypatch):
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "soon")
    with pytest.raises(DownloadError, match="HF_HUB_DOWNLOAD_TIMEOUT is 'soon'"):
        download("http://127.0.0.1/", target, "")


def test_sizes_are_written_for_people():
    assert [megabytes(size) for size in (4_518_343, 343_000_000, 999_600_000, 1_507_000_000)] == ["4.52 MB", "343 MB", "1.0 GB", "1.5 GB"]
