"""url -> file over plain HTTP: resumed where it stopped, tried again where that helps, whole or not there at all."""

import os
import sys
import time
from pathlib import Path

import requests
from tqdm import tqdm
from urllib3.exceptions import ReadTimeoutError

from ibot_hub.errors import DownloadError

PAUSES = (1.0, 2.0, 4.0, 8.0)  # seconds before each further attempt, while no attempt gets further than the last
CONNECT_TIMEOUT = 10.0  # seconds
READ_TIMEOUT = 30.0  # seconds without a byte; HF_HUB_DOWNLOAD_TIMEOUT overrides it
CHUNK = 1 << 18  # bytes


class _InterruptedError(Exception):
    """An attempt ended early in a way that another one may mend."""


def megabytes(size: int) -> str:
    """A number of bytes for people: "343 MB", "1.5 GB"."""
    return f"{size / 1e9:.1f} GB" if size >= 999.5e6 else f"{size / 1e6:.3g} MB"


def offline() -> bool:
    """Whether HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) forbids every connection, as it does in Hugging Face's libraries."""
    return (os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or "").lower() in ("1", "true", "yes", "on")


def download(url: str, target: Path, announcement: str, predicted: int | None = None) -> None:
    """Fetch `url` into the file `target`; until it is whole its bytes wait in `<target>.partial`, and a later call goes on from there.

    Args:
        announcement: one line for stderr, printed once the server answers, with {size} where the size belongs.
        predicted: bytes, shown where the server does not say how many there are.

    Raises:
        DownloadError: the server has no such file, or cannot be reached however often it is tried.
        OSError: the file cannot be written.
    """
    partial = target.with_name(target.name + ".partial")
    timeout = _read_timeout()
    furthest, failures = _size(partial), 0
    while not target.exists():
        try:
            with _open(url, partial, timeout) as response:
                total = _total(response)
                if announcement:
                    print(announcement.replace("{size}", _describe(total or predicted, _offset(response))), file=sys.stderr)
                    announcement = ""
                _receive(response, partial, total)
            partial.replace(target)
            _validator_file(partial).unlink(missing_ok=True)
        except (_InterruptedError, requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as problem:
            reached = _size(partial)
            failures = 0 if reached > furthest else failures + 1
            furthest = max(reached, furthest)
            if failures > len(PAUSES):
                kept = (
                    f"{megabytes(reached)} of it are kept, and running this again goes on from there" if reached else "run this again later"
                )
                raise DownloadError(f"{url} could not be fetched ({_reason(problem, timeout)}); {kept}.") from problem
            time.sleep(PAUSES[max(failures - 1, 0)])
        except requests.RequestException as problem:
            raise DownloadError(f"{url} could not be fetched ({problem}); is the address right?") from problem


def _read_timeout() -> float:
    value = os.environ.get("HF_HUB_DOWNLOAD_TIMEOUT") or str(READ_TIMEOUT)
    try:
        return float(value)
    except ValueError as error:
        raise DownloadError(f"HF_HUB_DOWNLOAD_TIMEOUT is {value!r}; it must be a number of seconds.") from error


def _open(url: str, partial: Path, timeout: float) -> requests.Response:
    """The answer whose body continues `partial`, or starts it afresh (then `partial` is gone)."""
    headers = {"Accept-Encoding": "identity"}  # else a proxy may compress, and Content-Length would not be the file's
    offset, validator = _size(partial), _validator_file(partial)
    if offset and validator.exists():
        # if the file on the server is another one by now, If-Range makes it send the whole file
        headers |= {"Range": f"bytes={offset}-", "If-Range": validator.read_text()}
    response = requests.get(url, headers=headers, stream=True, timeout=(CONNECT_TIMEOUT, timeout))
    if response.status_code == 206 and _offset(response) == offset:
        return response
    if response.status_code == 200:
        _start_afresh(response, partial)
        return response
    response.close()
    if response.status_code in (206, 416):  # not the range that was asked for
        partial.unlink(missing_ok=True)
        raise _InterruptedError("the server sent another part of the file than was asked for")
    answer = f"{response.status_code} {response.reason}"
    if response.status_code >= 500 or response.status_code == 429:
        raise _InterruptedError(f"the server answers {answer}")
    raise DownloadError(
        f"{url} answers {answer}; set IBOT_HUB_MIRROR to a place that has the file, or load a file of your own by its path."
    )


def _start_afresh(response: requests.Response, partial: Path) -> None:
    """Forget what was there, and remember which version of the file is coming; a server that names none cannot be resumed."""
    partial.unlink(missing_ok=True)
    etag, validator = response.headers.get("ETag", ""), _validator_file(partial)
    version = etag if etag.startswith('"') else response.headers.get("Last-Modified")  # If-Range takes no weak ETag (W/"...")
    if version:
        validator.write_text(version)
    else:
        validator.unlink(missing_ok=True)


def _receive(response: requests.Response, partial: Path, total: int | None) -> None:
    with (
        partial.open("ab") as file,
        tqdm(total=total, initial=file.tell(), unit="B", unit_scale=True, disable=None, desc=partial.stem) as bar,
    ):
        for chunk in response.iter_content(CHUNK):
            file.write(chunk)
            bar.update(len(chunk))
        file.flush()
        os.fsync(file.fileno())
    if total is not None and _size(partial) != total:
        raise _InterruptedError(f"{_size(partial):,} of {total:,} bytes arrived")


def _validator_file(partial: Path) -> Path:
    return partial.with_name(partial.name + ".version")


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _offset(response: requests.Response) -> int:
    """The first byte this answer brings; "Content-Range: bytes 100-199/1000" says 100."""
    content_range = response.headers.get("Content-Range", "") if response.status_code == 206 else ""
    start = content_range.removeprefix("bytes ").partition("-")[0]
    return int(start) if start.isdigit() else 0


def _total(response: requests.Response) -> int | None:
    """Bytes of the whole file, where the server says."""
    if response.status_code == 206:
        total = response.headers.get("Content-Range", "").rpartition("/")[2]
    else:
        total = response.headers.get("Content-Length", "")
    return int(total) if total.isdigit() else None


def _describe(size: int | None, offset: int) -> str:
    whole = megabytes(size) if size else "of unknown size"
    return f"{whole}, going on at {megabytes(offset)}," if offset else whole


def _reason(problem: Exception, timeout: float) -> str:
    if isinstance(problem, requests.exceptions.ChunkedEncodingError):
        return "the connection breaks off"
    if isinstance(problem, requests.Timeout) or (problem.args and isinstance(problem.args[0], ReadTimeoutError)):
        return f"nothing arrives for {timeout:g} s"
    if isinstance(problem, requests.ConnectionError):
        innermost = str(problem).rpartition(": ")[2].rstrip("\"')>")
        return f"no connection: {innermost}" + ")" * (innermost.count("(") - innermost.count(")"))
    return str(problem)
