"""A model goes to a hub and comes back, through the real clients of three libraries."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from ibot_hub.errors import IBotError, PublishError, StoreError, UsageError
from ibot_hub.hub.publish import CARD, OWN, push
from ibot_hub.hub.runs import METRICS, RECIPE, STATE
from ibot_hub.loading import load
from ibot_hub.model import Model
from tests.hub_server import OWNER, READER, HubServer

# huggingface_hub 2.4 sends large files in a way that its own httpx2 finds outdated
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=")

ROOT = Path(__file__).parents[2]
FILES = {"config.json", "model.safetensors", "ibot.safetensors", "answers.safetensors", CARD}

ROUND_TRIP = """
import json, re, sys, pathlib, torch, numpy, timm, huggingface_hub
import ibot_hub
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, pipeline

local, name, photo, first = sys.argv[1:]
said = {}
model = ibot_hub.load(local, head=True)
said["url"] = ibot_hub.push(model, name, data="noise") if first else ""
sha = huggingface_hub.HfApi().model_info(name).sha if first else ""
back = ibot_hub.load(f"hf-hub:{name}", head=True)
tensor = torch.randn(2, 3, model.transform.size, model.transform.size, generator=torch.Generator().manual_seed(1))
with torch.no_grad():
    ours, theirs = model(tensor), back(tensor)
    said["tokens"] = [torch.equal(ours.cls, theirs.cls), torch.equal(ours.patches, theirs.patches)]
    said["logits"] = [torch.equal(a, b) for a, b in zip(vars(model.head(ours)).values(), vars(back.head(theirs)).values())]
    said["transform"] = back.transform == model.transform
    said["network"] = [model.card.network, back.card.network]
    whole = ours.patches.flatten(1, 2)
    if model.card.arch.startswith("ViT"):
        whole = torch.cat([ours.cls[:, None], whole], dim=1)
    twin = timm.create_model(f"hf-hub:{name}", pretrained=True).eval()
    said["timm"] = (twin.forward_features(tensor).reshape(whole.shape) - whole).abs().max().item()
    wrapped = AutoModel.from_pretrained(name).eval()
    answer = wrapped(tensor)
    said["transformers"] = (answer.last_hidden_state.reshape(whole.shape) - whole).abs().max().item()
    said["pooled"] = (answer.pooler_output - ours.cls).abs().max().item()
    processor = AutoImageProcessor.from_pretrained(name)
    image = Image.open(photo).convert("RGB")
    pixels = processor(image, return_tensors="pt")["pixel_values"][0]
    said["pixels"] = [list(pixels.shape) == list(model.transform(image).shape), (pixels - model.transform(image)).abs().max().item()]
    piped = pipeline("image-feature-extraction", model=name)(image, return_tensors=True)
    said["piped"] = (piped - wrapped(pixels[None]).last_hidden_state).abs().max().item()
if first:
    pinned = ibot_hub.load(f"hf-hub:{name}@{sha}", head=True)
    said["pinned"] = torch.equal(pinned(tensor).cls, ours.cls)
    blocks = re.findall("```python\\n(.*?)```", pathlib.Path(huggingface_hub.hf_hub_download(name, "README.md")).read_text(), re.S)
    said["shapes"] = []
    for block in blocks:
        told = {}
        exec(block.replace("photo.jpg", photo), told)
        tokens = told["tokens"]
        said["shapes"].append(list((tokens if torch.is_tensor(tokens) else tokens.patches).shape))
print(json.dumps(said))
"""


OTHERS = """
import json, sys, pathlib, torch, timm, huggingface_hub
import ibot_hub
from transformers import ViTConfig, ViTModel

checkpoint, exported = sys.argv[1:]
torch.manual_seed(0)
said, api = {}, huggingface_hub.HfApi()
tensor = torch.randn(2, 3, 64, 64)


def compare(name, theirs):
    model = ibot_hub.load(f"hf-hub:{name}")
    with torch.no_grad():
        tokens, theirs = model(tensor), theirs(tensor)
    ours = torch.cat([tokens.cls[:, None], tokens.patches.flatten(1, 2)], dim=1)
    checks = {f"{check.what} {check.file}": check.passed for check in ibot_hub.verify(f"hf-hub:{name}").checks}
    said[name] = {"apart": (ours - theirs).abs().max().item(), "checks": checks}


args = dict(img_size=64, embed_dim=128, depth=2, num_heads=2)
twin = timm.create_model("vit_base_patch16_224", num_classes=0, **args).eval()
timm.models.push_to_hf_hub(twin, "org/timm", model_args=args)  # safetensors, and a pickle that nobody fetches
compare("org/timm", twin.forward_features)

config = ViTConfig(
    hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512, image_size=64, patch_size=16, layer_norm_eps=1e-6
)
theirs = ViTModel(config, add_pooling_layer=False).eval()
theirs.push_to_hub("org/transformers")
compare("org/transformers", lambda images: theirs(images).last_hidden_state)

api.create_repo("org/folder")
api.upload_folder(repo_id="org/folder", folder_path=ibot_hub.export(ibot_hub.load(checkpoint), exported, "transformers"))
mine, back = ibot_hub.load(checkpoint).state_dict(), ibot_hub.load("hf-hub:org/folder").state_dict()
said["org/folder"] = {
    "apart": 0.0 if mine.keys() == back.keys() and all(torch.equal(mine[key], back[key]) for key in mine) else 1.0,
    "checks": {f"{check.what} {check.file}": check.passed for check in ibot_hub.verify("hf-hub:org/folder").checks},
}
print(json.dumps(said))
"""


def environment(hub: HubServer, home: Path, **changes: str) -> dict[str, str]:
    """Of a process that knows no other hub, and nothing of this user's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING", "TRANSFORMERS_", "IBOT_"))}
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "IBOT_HUB_CACHE": str(home / "ibot")}
    return kept | own | changes


def round_trip(hub: HubServer, home: Path, *words: str, script: str = ROUND_TRIP, **changes: str) -> dict[str, Any]:
    command = [sys.executable, "-c", script, *words]
    done = subprocess.run(command, cwd=ROOT, env=environment(hub, home, **changes), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def test_a_vit_comes_back_bit_for_bit_in_three_libraries_and_once_cached_offline(hf_hub: HubServer, photos: Path, tmp_path: Path) -> None:
    photo = str(photos / "coffee.jpg")
    said = round_trip(hf_hub, tmp_path, "tiny", "org/micro", photo, "first", HF_TOKEN=OWNER)
    assert said.pop("url") == f"{hf_hub.url}/org/micro"
    same_shape, grey = said.pop("pixels")
    assert same_shape
    assert grey < 2.1 / 255 / 0.22  # two grey levels, normalised
    assert said.pop("pinned") is True
    model = load("tiny")
    side = model.transform.size // model.transform.patch
    width = model.widths[-1]
    assert said.pop("shapes") == [[1, side, side, width], [1, 1 + side * side, width], [1, 1 + side * side, width]]
    expected = {
        "tokens": [True, True], "logits": [True, True], "transform": True, "network": ["teacher", "teacher"],
        "timm": 0.0, "transformers": 0.0, "pooled": 0.0, "piped": 0.0,
    }  # fmt: skip
    assert said == expected
    first, pushed = hf_hub.repositories["org/micro"].commits
    assert (set(pushed.files), pushed.title) == (FILES | {".gitattributes"}, "Published with ibot-hub")
    assert set(first.files) == {".gitattributes"}
    assert not [path for _, path, _ in hf_hub.requests if path.endswith((".bin", ".pth"))]

    hf_hub.requests.clear()
    said = round_trip(hf_hub, tmp_path, "tiny", "org/micro", photo, "", HF_HUB_OFFLINE="1")
    assert {name: said[name] for name in ("tokens", "logits", "timm", "transformers", "piped")} == {
        name: expected[name] for name in ("tokens", "logits", "timm", "transformers", "piped")
    }
    assert hf_hub.requests == []


def test_a_swin_is_as_near_as_its_card_says(hf_hub: HubServer, photos: Path, golden: Path, tmp_path: Path) -> None:
    words = (str(golden / "swin_micro_w7_checkpoint.pth"), "org/swin", str(photos / "coffee.jpg"), "first")
    said = round_trip(hf_hub, tmp_path, *words, HF_TOKEN=OWNER)
    assert (said["tokens"], said["logits"]) == ([True, True], [True, True])
    card = hf_hub.repositories["org/swin"].commits[-1].files[CARD].decode()
    told = float(card.split("no number of a token is more than ")[1].split()[0])
    assert 0 < max(said["timm"], said["transformers"]) < 3 * told < 0.1
    assert "A Swin cannot be said exactly" in card


def test_what_other_clients_push_is_pulled_and_checked(hf_hub: HubServer, golden: Path, tmp_path: Path) -> None:
    words = (str(golden / "vit_micro_checkpoint.pth"), str(tmp_path / "exported"))
    said = round_trip(hf_hub, tmp_path, *words, script=OTHERS, HF_TOKEN=OWNER)
    assert {name: facts["apart"] < 1e-5 for name, facts in said.items()} == dict.fromkeys(
        ["org/timm", "org/transformers", "org/folder"], True
    )
    for name, answered in (("org/timm", None), ("org/transformers", None), ("org/folder", True)):
        checks = said[name]["checks"]
        assert checks.pop("answers answers.safetensors") is answered
        assert set(checks.values()) == {True}
        assert {"sha256 config.json", "sha256 model.safetensors"} < set(checks)
    assert "pytorch_model.bin" in hf_hub.repositories["org/timm"].commits[-1].files
    assert not [path for method, path, _ in hf_hub.requests if method == "GET" and path.endswith(".bin")]


@pytest.fixture
def owner(hf_hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """The hub, for this process too, whose token may write."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hf_hub.url)
    monkeypatch.setenv("HF_TOKEN", OWNER)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    return hf_hub


@pytest.fixture(scope="module")
def micro(golden_checkpoint: Path) -> Model:
    return load(golden_checkpoint, head=True)


@pytest.fixture(scope="module")
def golden_checkpoint() -> Path:
    return ROOT / "tests" / "golden" / "vit_micro_checkpoint.pth"


def test_a_dry_run_lists_and_sends_nothing(owner: HubServer, micro: Model, capsys: pytest.CaptureFixture[str]) -> None:
    assert push(micro, "org/micro", dry_run=True) == f"{owner.url}/org/micro"
    assert {line.partition(":")[0] for line in capsys.readouterr().err.splitlines()} == FILES
    assert owner.requests == []


def test_a_later_push_takes_away_what_it_has_not_and_leaves_what_is_not_ours(owner: HubServer, micro: Model, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text('name = "x"\n')
    (tmp_path / "metrics.jsonl").write_text('{"step": 10, "epoch": 1.0, "loss": 2.5, "knn20": 31.25, "nmi": 0.5}\n')
    owner.repository("org/micro", {"notes.txt": b"by hand", "pytorch_model.bin": b"theirs"})
    push(micro, "org/micro", run=tmp_path)
    repository = owner.repositories["org/micro"]
    with_run = repository.commits[-1].files
    assert set(with_run) == {*OWN, "notes.txt", "pytorch_model.bin"} - {*STATE}
    assert with_run[RECIPE] == b'name = "x"\n'
    assert b"31.25" in with_run[METRICS]
    assert "| k-NN top-1 (k = 20), % | 31.25 | images that the run was trained on | measured |" in with_run[CARD].decode()
    push(micro, "org/micro")
    assert set(repository.commits[-1].files) == FILES | {"notes.txt", "pytorch_model.bin"}
    assert len(repository.commits) == 3


def test_a_training_state_goes_as_it_is_and_does_not_outlive_its_model(owner: HubServer, micro: Model, tmp_path: Path) -> None:
    state = tmp_path / "checkpoints" / "step-00000030"
    state.mkdir(parents=True)
    bodies = {"state.safetensors": b"tensors", "state.json": b'{"step": 30}'}
    for name, body in bodies.items():
        (state / name).write_bytes(body)
    push(micro, "org/micro", run=tmp_path, state=state)
    repository = owner.repositories["org/micro"]
    assert len(repository.commits) == 2  # the first is the hub's own
    sent = repository.commits[-1].files
    assert {file: sent[file] for file in STATE} == {f"training/{name}": body for name, body in bodies.items()}
    assert "The whole state after step 30 is here" in sent[CARD].decode()
    (state / "state.safetensors").unlink()
    with pytest.raises(PublishError, match=r"^org/micro was not published: .* cannot be copied to .* \(No such file.*\); make room"):
        push(micro, "org/micro", run=tmp_path, state=state)
    (state / "state.json").unlink()
    with pytest.raises(StoreError, match="is no checkpoint of a run"):
        push(micro, "org/micro", run=tmp_path, state=state)
    assert len(repository.commits) == 2
    push(micro, "org/micro", run=tmp_path)
    assert set(repository.commits[-1].files) == FILES | {".gitattributes"}


def test_a_private_push_is_never_seen_by_all(owner: HubServer, micro: Model) -> None:
    push(micro, "org/secret", private=True)
    assert owner.repositories["org/secret"].private
    owner.repository("org/open", {})
    with pytest.raises(PublishError, match="org/open is there already and public"):
        push(micro, "org/open", private=True)
    assert len(owner.repositories["org/open"].commits) == 1


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("", r"wants to know who you are; `hf auth login`, or set HF_TOKEN\.$"),
        ("hf_forged", r"refuses your token; `hf auth login` with one that may write, or set HF_TOKEN\.$"),
        (READER, r"your token may not write to org/micro; take one that may write, or a name under your own account\.$"),
    ],
)
def test_who_may_not_write_is_told_in_one_sentence(
    owner: HubServer, micro: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, token: str, said: str
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setenv("HF_TOKEN", token)
    owner.repository("org/micro", {"a": b""})
    with pytest.raises(PublishError, match=said) as caught:
        push(micro, "org/micro")
    assert "\n" not in str(caught.value)
    assert len(owner.repositories["org/micro"].commits) == 1


def test_a_hub_that_fails_leaves_the_repository_as_it_was(owner: HubServer, micro: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    push(micro, "org/micro")
    before = list(owner.repositories["org/micro"].commits)
    other = load("tiny", head=True)
    for status, said in ((412, "somebody else changed it"), (400, r"answers 400 \(the hub is ill\); try again later")):
        owner.commit_status = status
        with pytest.raises(PublishError, match=f"^org/micro was not published: .*{said}"):
            push(other, "org/micro")
    assert owner.repositories["org/micro"].commits == before
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(PublishError, match=r"http://127\.0\.0\.1:1 could not be talked to"):
        push(other, "org/micro")


@pytest.mark.parametrize("name", ["micro", "a/b/c", "org/", "org/na me", "/micro", "org/..", ""])
def test_what_is_no_name_is_told_before_anything_is_done(owner: HubServer, micro: Model, name: str) -> None:
    with pytest.raises(UsageError, match="is no name of a repository; it is written organisation/name"):
        push(micro, name)
    assert owner.requests == []


def test_the_catalogues_name_is_kept_only_for_its_very_weights(owner: HubServer) -> None:
    tiny = load("tiny", head=True)
    push(tiny, "org/tiny")
    card = owner.repositories["org/tiny"].commits[-1].files[CARD].decode()
    assert "those that ibot-hub calls `tiny`" in card
    assert "license: apache-2.0" in card
    with torch.no_grad():
        tiny.backbone.cls_token += 1
    push(tiny, "org/own", licence="CC-BY-NC-4.0", data="my pictures")
    card = owner.repositories["org/own"].commits[-1].files[CARD].decode()
    assert "ibot-hub calls" not in card
    assert "license: cc-by-nc-4.0" in card
    assert "| data | my pictures |" in card


def test_errors_of_publishing_are_the_users() -> None:
    assert issubclass(PublishError, IBotError)
