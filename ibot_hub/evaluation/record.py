"""What was measured, of what and how, as one JSON file a protocol."""

import hashlib
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ibot_hub.devices import choose_devices, choose_dtype
from ibot_hub.errors import StoreError
from ibot_hub.evaluation.images import Network
from ibot_hub.evaluation.options import OwnWay
from ibot_hub.evaluation.table import Table
from ibot_hub.features.plan import weights_digest
from ibot_hub.features.store import Manifest
from ibot_hub.model import Model
from ibot_hub.plain_name import plain_name
from ibot_hub.versions import versions
from ibot_hub.writing import whole

COMPANIONS = (".png", ".safetensors", ".json")  # of a protocol: what its files may end in


@dataclass(frozen=True)
class Record:
    """All it takes to trust a number, or to measure it again."""

    protocol: str  # "knn"
    model: str  # as it was asked for
    arch: str  # "ViT-S/16"
    network: str | None  # "teacher", "student"
    weights: str  # sha256 of the tensors
    data: Mapping[str, str]  # {"train": folder, "val": folder}
    settings: Mapping[str, Any]
    results: Mapping[str, Any]
    table: Table
    versions: Mapping[str, str]


def record(
    manifest: Manifest, protocol: str, data: Mapping[str, str], settings: Mapping[str, Any], results: Mapping[str, Any], table: Table
) -> Record:  # fmt: skip
    """The record of one protocol on features of `manifest`."""
    seen = {"preprocessing": dict(manifest.preprocessing), "dtype": manifest.dtype, "layers": manifest.layers, "pool": manifest.pool}
    return Record(
        protocol, manifest.model, manifest.arch, manifest.network, manifest.weights, data, {**seen, **settings}, results, table, versions()
    )


def record_of_model(
    model: Model, protocol: str, data: Mapping[str, str], settings: Mapping[str, Any], results: Mapping[str, Any], table: Table
) -> Record:  # fmt: skip
    """The record of one protocol in which the model saw the images itself, in the way that `settings` say."""
    card, digest = model.card, weights_digest(model.backbone)
    return Record(protocol, card.name, card.arch, card.network, digest, data, settings, results, table, versions())


def settings_of_network(network: Network) -> dict[str, Any]:
    """How a network sees images, as a record keeps it."""
    dtype = str(next(network.backbone.parameters()).dtype).removeprefix("torch.")
    return {"preprocessing": asdict(network.transform), "dtype": dtype}


def settings_of_options(model: Model, options: OwnWay) -> dict[str, Any]:
    """How a model sees images by options that say all of it, as a record keeps it."""
    device = choose_devices(options.device)[0]
    computed = {"device": device.type, "dtype": str(choose_dtype(options.dtype, device)).removeprefix("torch.")}
    transform = {"patch": model.transform.patch, "mean": model.transform.mean, "std": model.transform.std}
    return {**asdict(options), **computed, **transform}


def write_record(done: Record, out: Path) -> Path:
    """PROTOCOL.json in the folder `out`, whole or not at all; what is there of another model or other data is kept under another name.

    Raises StoreError where it cannot be written.
    """
    path = out / f"{done.protocol}.json"
    set_aside(done.protocol, done.weights, done.data, out)
    with whole(path) as partial:
        partial.write_text(as_json(done) + "\n", encoding="utf-8")
    return path


def set_aside(protocol: str, weights: str, data: Mapping[str, str], out: Path) -> None:
    """Give PROTOCOL.json of another model or of other data, with the picture and the classifier of that name, a name of its own.

    What an earlier call wrote of the same is not kept, for it is measured again. Raises StoreError where files cannot be moved.
    """
    path = out / f"{protocol}.json"
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror}); choose another --out.") from error
    try:
        earlier = json.loads(text)
        model, same = str(earlier["model"]), (earlier["weights"], earlier["data"]) == (weights, dict(data))
    except (ValueError, LookupError, TypeError):  # no record of ours
        model, same = "other", False
    if same:
        return
    name = f"{protocol}-{plain_name(model)[-60:]}-{hashlib.sha256(text).hexdigest()[:8]}"
    try:
        for suffix in COMPANIONS:  # the record last: as long as it is there, the next call does what is left
            file = path.with_suffix(suffix)
            if file.exists():
                file.replace(out / f"{name}{suffix}")
    except OSError as error:
        raise StoreError(f"{file} of other results cannot be moved ({error.strerror}); choose another --out.") from error
    print(f"{path} held results of another model or of other data; they are {name}.json now", file=sys.stderr)


def as_json(done: Record) -> str:
    """One JSON object; a number that is not finite is null, for JSON has none."""
    return json.dumps(_plain(asdict(done)), indent=2)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
