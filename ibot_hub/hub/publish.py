"""A model becomes a repository of the Hugging Face Hub, in one commit or not at all."""

import re
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import huggingface_hub
import torch
from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from huggingface_hub import errors as hub_errors

from ibot_hub.catalog import Checkpoint, info, list_models
from ibot_hub.errors import PublishError, UsageError
from ibot_hub.formats.timm import timm_deviation, write_timm
from ibot_hub.hub.answers import save_answers
from ibot_hub.hub.card import Facts, scores_of_entry, write_card
from ibot_hub.hub.download import megabytes
from ibot_hub.hub.runs import METRICS, RECIPE, STATE, scores_of_run, started_from, steps_of
from ibot_hub.loading import load
from ibot_hub.model import Model
from ibot_hub.options import PushOptions
from ibot_hub.origin import ANSWERS, EXTRAS

CARD = "README.md"
# all that a push may write; one of these that a later push has not is removed, so that no head or state outlives its backbone
OWN = ("config.json", "model.safetensors", EXTRAS, ANSWERS, RECIPE, METRICS, *STATE, CARD)


def push(
    model: Model,
    repo_id: str,
    options: PushOptions | None = None,
    *,
    run: Path | None = None,
    state: Path | None = None,
    **changes: object,
) -> str:
    """Publish `model` as "organisation/name" on the Hugging Face Hub (or where HF_ENDPOINT says), and answer its address.

    All files go in one commit, which names its parent: what fails leaves the repository as it was, though one that was made for it may
    stay, empty. Each file is named on standard error. The token is that of HF_TOKEN or of `hf auth login`.

    Args:
        options: default `PushOptions()`; `changes` are fields of it, such as private=True or dry_run=True, which only lists the files.
        run: the folder of the run that made the model, whose recipe and numbers are published too.
        state: a checkpoint of that run (RUN/checkpoints/step-...): state.safetensors and state.json go too, as they are, and others
            go on from there with `ibot train --from`. A later push without it takes them away.

    Raises:
        UsageError: the name is none, or the model cannot be said in timm's layout.
        PublishError: refused, out of reach, or interrupted; nothing was published.
    """
    options = PushOptions(**vars(options or PushOptions()) | changes)
    check_name(repo_id)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_repository(model, repo_id, folder, run, options, state)
        files = [file for file in OWN if (folder / file).exists()]
        for file in files:
            print(f"{file}: {megabytes((folder / file).stat().st_size)}", file=sys.stderr)
        if options.dry_run:
            return f"{huggingface_hub.constants.ENDPOINT}/{repo_id}"
        return _send(folder, files, repo_id, options.private)


def check_name(repo_id: str) -> None:
    """Raises UsageError unless it is "organisation/name" as the hub wants it."""
    try:
        huggingface_hub.utils.validate_repo_id(repo_id)  # type: ignore[attr-defined]  # public, but not in its __all__
        whole = "/" in repo_id
    except hub_errors.HFValidationError:
        whole = False
    if not whole:
        raise UsageError(
            f"{repo_id!r} is no name of a repository; it is written organisation/name, each of letters, digits, hyphens, dots, underscores."
        )


def write_repository(
    model: Model, repo_id: str, folder: Path, run: Path | None, options: PushOptions, state: Path | None = None
) -> None:  # fmt: skip
    """All the files of the repository into an empty folder; nothing is sent."""
    write_timm(model, folder)
    save_answers(model, folder / ANSWERS)
    for file in (RECIPE, METRICS):
        source = run / Path(file).name if run else None
        if source and source.exists():
            (folder / file).parent.mkdir(exist_ok=True)
            shutil.copyfile(source, folder / file)
    steps = steps_of(state) if state else 0
    if state:
        _copy_state(state, folder, repo_id)
    entry = published_as(model)
    facts = Facts(
        repo_id=repo_id,
        data=options.data or (entry.data if entry else ""),
        licence=options.licence or (entry.licence if entry else ""),
        entry=entry,
        scores=(*(scores_of_entry(entry) if entry else ()), *(scores_of_run(run) if run else ())),
        deviation=timm_deviation(model, folder),
        files=[file for file in OWN if (folder / file).exists()],
        started_from=started_from(run) if run else "",
        steps=steps,
    )
    (folder / CARD).write_text(write_card(model, facts), encoding="utf-8")


def _copy_state(state: Path, folder: Path, repo_id: str) -> None:
    """A copy, for a run that goes on meanwhile removes its older checkpoints."""
    try:
        for file in STATE:
            (folder / file).parent.mkdir(exist_ok=True)
            shutil.copyfile(state / Path(file).name, folder / file)
    except OSError as error:
        raise PublishError(
            f"{repo_id} was not published: {state} cannot be copied to {folder} ({error.strerror or error}); "
            "make room there or set TMPDIR, or push again if the run has removed it meanwhile."
        ) from error


def published_as(model: Model) -> Checkpoint | None:
    """The entry of the catalogue whose very weights these are; None for a model of one's own, also where it started from one of those."""
    name = model.card.name
    if not model.card.licence or name not in list_models():  # only a model that came by its name in the catalogue has a licence
        return None
    entry = info(name)
    network = None if entry.repository else model.card.network
    mine = model.state_dict()
    theirs = load(name, network, model.head is not None, model.device, model.dtype).state_dict()
    same = mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)
    return entry if same and model.card.network == entry.network else None


def _send(folder: Path, files: list[str], repo_id: str, private: bool) -> str:
    api = huggingface_hub.HfApi()
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        there = api.model_info(repo_id)
        if private and not there.private:
            raise PublishError(f"{repo_id} is there already and public; choose another name, or make it private on {api.endpoint} first.")
        old = {sibling.rfilename for sibling in there.siblings or ()}
        operations: list[CommitOperationAdd | CommitOperationDelete] = [CommitOperationAdd(file, folder / file) for file in files]
        operations += [CommitOperationDelete(file) for file in OWN if file in old and file not in files]
        sent = api.create_commit(repo_id, operations, commit_message="Published with ibot-hub", parent_commit=there.sha)
    except hub_errors.OfflineModeIsEnabled as error:
        raise PublishError(f"{repo_id} was not published: HF_HUB_OFFLINE is set; unset it.") from error
    except hub_errors.HfHubHTTPError as error:
        raise PublishError(f"{repo_id} was not published: {_refusal(api, repo_id, error)}") from error
    except (hub_errors.HTTPError, ValueError, OSError, RuntimeError) as error:  # type: ignore[attr-defined]  # httpx's, as the hub has it
        # a large file that could not be sent is told by what it was caused by
        reason = str(error.__cause__ or error).strip().splitlines()[0].rstrip(".")
        raise PublishError(f"{repo_id} was not published: {api.endpoint} could not be talked to ({reason}); try again later.") from error
    print(f"commit {sent.oid}; hf-hub:{repo_id}@{sent.oid} names it for good", file=sys.stderr)
    return f"{api.endpoint}/{repo_id}"


def _refusal(api: huggingface_hub.HfApi, repo_id: str, error: hub_errors.HfHubHTTPError) -> str:
    """Why, and what to do, by the hub's answer."""
    status = error.response.status_code
    if status == 401 and not huggingface_hub.get_token():
        return f"{api.endpoint} wants to know who you are; `hf auth login`, or set HF_TOKEN."
    if status == 401:
        return f"{api.endpoint} refuses your token; `hf auth login` with one that may write, or set HF_TOKEN."
    if status == 403:
        return f"your token may not write to {repo_id}; take one that may write, or a name under your own account."
    if status in (409, 412):
        return "somebody else changed it at the same time; look at it, then push again."
    said = re.sub(r"\s+", " ", error.server_message or str(error)).strip().rstrip(".")
    return f"{api.endpoint} answers {status} ({said}); try again later."
