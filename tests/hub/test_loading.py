"""Names, files and folders become models that say what they are."""

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import ibot_hub
from ibot_hub import catalog, loading, weights
from ibot_hub.catalog import info
from ibot_hub.errors import DownloadError, UnknownModelError, UsageError, WeightsError
from ibot_hub.formats.timm import write_timm
from ibot_hub.images import IMAGENET_MEAN, IMAGENET_STD
from ibot_hub.loading import load
from ibot_hub.model import Card


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other at every small tensor cost four times the work, where others use the machine too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def full(golden: Path) -> Path:
    return golden / "vit_micro_checkpoint.pth"


@pytest.fixture
def mirror(tmp_path: Path, full: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the shape of the official host, and an empty cache; a catalogue in which every network is a small one."""
    small = tuple(replace(entry, arch="ViT-128x2/16", patterns=96) for entry in catalog.CATALOG)
    monkeypatch.setattr(catalog, "CATALOG", small)
    folder = tmp_path / "mirror"
    monkeypatch.setenv("IBOT_HUB_MIRROR", str(folder))
    monkeypatch.setenv("IBOT_HUB_CACHE", str(tmp_path / "cache"))
    for name in ("vits_16", "vitb_16_pt22k", "visionfm_fundus"):
        (folder / name).mkdir(parents=True)
        shutil.copy(full, folder / name / "checkpoint.pth")
    torch.save({"state_dict": dict(weights.read(full, "teacher").backbone)}, folder / "vits_16" / "checkpoint_teacher.pth")
    student = weights.read(full, "student")
    torch.save(
        {"state_dict": {**student.backbone, "masked_embed": student.mask_token}}, folder / "vitb_16_pt22k" / "checkpoint_student.pth"
    )
    return folder


def assert_holds(model: ibot_hub.Model, path: Path, network: str) -> None:
    theirs = weights.read(path, network)
    ours: dict[str, Tensor] = model.backbone.state_dict()
    assert ours.keys() == theirs.backbone.keys()
    assert all(torch.equal(ours[name], theirs.backbone[name]) for name in ours)
    assert (model.mask_token is None) == (theirs.mask_token is None)
    if model.head is not None:
        assert theirs.head is not None
        assert all(torch.equal(tensor, theirs.head[name]) for name, tensor in model.head.state_dict().items())


# names


def test_a_name_gives_the_backbone_of_the_teacher(mirror: Path, full: Path) -> None:
    model = ibot_hub.load("vit_s16")
    assert_holds(model, full, "teacher")
    assert model.head is None
    assert model.card == Card("vit_s16", "ViT-128x2/16", "teacher", verified=False, licence="Apache-2.0")
    assert (mirror.parent / "cache" / "vit_s16" / "teacher.safetensors").exists()


def test_the_head_comes_when_it_is_asked_for_and_stays(mirror: Path, full: Path) -> None:
    model = load("vit_s16", head=True)
    assert model.head is not None
    assert_holds(model, full, "teacher")
    assert load("vit_s16").head is not None  # the file at hand has it
    assert load("vit_s16", head=False).head is None


def test_the_student_when_it_is_asked_for(mirror: Path, full: Path) -> None:
    model = load("vit_s16", network="student")
    assert_holds(model, full, "student")
    assert model.card.network == "student"
    assert not torch.equal(model.backbone.norm.weight, load("vit_s16").backbone.norm.weight)


def test_of_imagenet_22k_the_student_is_taken(mirror: Path, full: Path) -> None:
    model = load("vit_b16_in22k")
    assert_holds(model, full, "student")
    assert model.card.network == "student"
    assert_holds(load("vit_b16_in22k", network="teacher"), full, "teacher")
    with_head = load("vit_b16_in22k", head=True)
    assert with_head.head is not None
    assert_holds(with_head, full, "student")


def test_a_digest_that_the_catalogue_knows_verifies(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = mirror / "vits_16" / "checkpoint_teacher.pth"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setattr(loading, "info", lambda name: replace(info(name), sha256={file.name: digest}))
    assert load("vit_s16").card.verified is True


def test_a_digest_that_differs_is_refused(mirror: Path) -> None:
    (mirror / "vitb_16").mkdir()
    shutil.copy(mirror / "vits_16" / "checkpoint_teacher.pth", mirror / "vitb_16")
    with pytest.raises(DownloadError, match=r"vit_b16: checkpoint_teacher\.pth has the sha256"):
        load("vit_b16")


def test_the_catalogue_knows_how_images_are_prepared(mirror: Path) -> None:
    model = load("visionfm_fundus")
    assert (model.transform.mean, model.transform.std) == ((0.4237, 0.2609, 0.1284), (0.2948, 0.2017, 0.1367))
    assert model.card.licence == "see the authors' agreement"
    assert model.head is not None  # it is in the only file
    assert model.transform.resize == "squash"
    official = load("vit_s16")
    assert (official.transform.mean, official.transform.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert (official.transform.size, official.transform.patch, official.transform.resize) == (224, 16, "crop")


# the model that ships with the package


def test_the_embedded_model_needs_no_cache_and_no_network(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that cannot be made, and a host that is not there."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("IBOT_HUB_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("IBOT_HUB_MIRROR", "http://127.0.0.1:9")
    model = load("tiny", head=True)
    assert model.card == Card("tiny", "ViT-192x4/8", "teacher", verified=True, licence="Apache-2.0")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert (model.transform.size, model.transform.mean, model.transform.std) == (64, IMAGENET_MEAN, IMAGENET_STD)
    tokens = model(photos / "coffee.jpg")
    assert (tokens.cls.shape, tokens.patches.shape) == ((1, 192), (1, 8, 8, 192))
    assert model.pattern_ids(photos / "coffee.jpg").ids.shape == (1, 8, 8)
    assert load("tiny").head is not None  # it is in the file at hand
    assert load("tiny", head=False).head is None
    assert_holds(load("tiny", "teacher", dtype="float16"), Path(ibot_hub.__file__).parent / "embedded" / "tiny.safetensors", "teacher")


def test_the_embedded_model_is_the_teacher_alone() -> None:
    with pytest.raises(UsageError, match="tiny is published as the teacher alone; leave `network` out"):
        load("tiny", network="student")


def test_an_embedded_file_that_was_changed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for changes in ({"sha256": {"tiny.safetensors": "0" * 64}}, {"embedded": "missing.safetensors"}):
        monkeypatch.setattr(loading, "info", lambda name, changes=changes: replace(info(name), **changes))
        with pytest.raises(WeightsError, match=r"safetensors is not the file that ibot-hub ships; install it again"):
            load("tiny")


# files and folders


def test_a_file_says_what_it_holds(full: Path) -> None:
    model = load(full)
    assert_holds(model, full, "teacher")
    assert model.head is not None
    assert model.card == Card(str(full), "ViT-128x2/16", "teacher")
    assert_holds(load(str(full), "student"), full, "student")
    assert load(full, head=False).head is None


def test_the_folder_of_a_run(full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    for network in ("teacher", "student"):
        weights.save(weights.read(full, network), Path("run", f"{network}.safetensors"))
    for network in ("teacher", "student"):
        model = load("run", network)
        assert_holds(model, full, network)
        assert model.head is not None
        assert model.card == Card("run", "ViT-128x2/16", network)
    assert load(Path("run")).card.network == "teacher"


def test_a_swin(golden: Path) -> None:
    path = golden / "swin_micro_w14_checkpoint_teacher.pth"
    model = load(path)
    assert_holds(model, path, "teacher")
    assert (model.transform.size, model.transform.patch) == (224, 32)
    assert model.widths == (16, 16, 32, 32, 64, 64, 128, 128)


def test_a_network_that_is_not_stated_stays_so(full: Path, tmp_path: Path) -> None:
    torch.save(dict(weights.read(full).backbone), tmp_path / "flat.pth")
    assert load(tmp_path / "flat.pth").card.network is None


def test_a_file_says_how_its_images_are_prepared(full: Path, tmp_path: Path) -> None:
    read = weights.read(full)
    own = replace(read.origin, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), resize="squash")
    weights.save(replace(read, origin=own), tmp_path / "own.safetensors")
    transform = load(tmp_path / "own.safetensors").transform
    assert (transform.mean, transform.std, transform.resize) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "squash")


def test_the_size_of_the_position_table_is_the_size_of_the_images(full: Path, tmp_path: Path) -> None:
    read = weights.read(full)
    torch.save(dict(read.backbone) | {"pos_embed": torch.zeros(1, 1 + 6 * 6, 128)}, tmp_path / "small.pth")
    assert load(tmp_path / "small.pth").transform.size == 96


def test_a_name_goes_before_a_file_of_that_name(mirror: Path, full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(full, "vit_s16")
    shutil.copy(full, "mine")
    assert load("vit_s16").card.verified is False
    for file in ("./vit_s16", Path("vit_s16"), "mine"):
        assert load(file).card == Card(str(file), "ViT-128x2/16", "teacher")


def test_a_file_is_looked_through_each_time_and_the_cache_when_it_came_in(mirror: Path, tmp_path: Path) -> None:
    file = mirror / "vits_16" / "checkpoint_teacher.pth"
    state = torch.load(file)["state_dict"]
    state["norm.bias"] = torch.full((128,), torch.nan)
    torch.save({"state_dict": state}, file)
    for name in (file, "vit_s16"):
        with pytest.raises(WeightsError, match=r"'backbone\.norm\.bias' holds NaN"):
            load(name)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_the_weights_of_the_cache_are_there_once_and_are_not_hashed(mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load("vit_s16")
    file = tmp_path / "cache" / "vit_s16" / "teacher.safetensors"
    write_timm(load("vit_s16"), tmp_path)

    def never(*_: object) -> None:
        raise AssertionError("all of the file is looked at")

    monkeypatch.setattr(hashlib, "file_digest", never)
    monkeypatch.setattr(weights, "_check_values", never)
    assert allocated("vit_s16") <= 1.02 * file.stat().st_size
    monkeypatch.undo()
    assert allocated(tmp_path) <= 1.02 * file.stat().st_size  # a file in the layout of timm


def allocated(name: str | Path) -> int:
    """Bytes that torch allocates while it loads, also those that it gives back; a mapped file counts."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        load(name)
    return sum(max(event.self_cpu_memory_usage, 0) for event in profiled.events() or ())


# what cannot be


def test_unknown_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownModelError, match=r"No model is called 'vit_s_16': did you mean vit_s16"):
        load("vit_s_16")
    for path in ("./vit_s16", Path("vit_s16"), "nowhere/file.pth"):
        with pytest.raises(WeightsError, match=rf"{Path(path)} does not exist; give a file, a folder, or a name"):
            load(path)


def test_unknown_networks_and_dtypes(full: Path) -> None:
    with pytest.raises(UsageError, match="There is no network 'techer'; say teacher or student"):
        load(full, network="techer")
    for dtype in ("half", torch.int8):
        with pytest.raises(UsageError, match=f"A model cannot have the dtype {dtype!r}; say float32, bfloat16, float16"):
            load(full, dtype=dtype)


def test_one_network_of_the_hub_is_all_there_is() -> None:
    with pytest.raises(UsageError, match="phikon is published as the teacher alone; leave `network` out"):
        load("phikon", network="student")
    with pytest.raises(UsageError, match="dinov2_vit_s14 is published as one network, and not said which; leave `network` out"):
        load("dinov2_vit_s14", network="teacher")


def test_a_checkpoint_that_is_no_whole_network(full: Path, tmp_path: Path) -> None:
    state = dict(torch.load(full, weights_only=False)["teacher"])
    del state["backbone.blocks.1.mlp.fc2.bias"], state["head.mlp.4.bias"]
    state["backbone.blocks.0.gamma_1"] = torch.ones(128)
    torch.save({"teacher": state}, tmp_path / "odd.pth")
    with pytest.raises(WeightsError, match=r"odd.pth does not fit the backbone.*: 1 missing \(blocks.1.mlp.fc2.bias\); 1 left over \(bl"):
        load(tmp_path / "odd.pth")
    state = dict(torch.load(full, weights_only=False)["teacher"])
    for name in ("head.mlp.4.bias", "head.last_layer.weight_v"):
        del state[name]
        torch.save({"teacher": state}, tmp_path / "odd.pth")
        with pytest.raises(WeightsError, match=r"odd\.pth"):
            load(tmp_path / "odd.pth")
        assert load(tmp_path / "odd.pth", head=False).head is None


def test_a_position_table_of_no_patch(full: Path, tmp_path: Path) -> None:
    torch.save(dict(weights.read(full).backbone) | {"pos_embed": torch.ones(1, 1, 128)}, tmp_path / "odd.pth")
    with pytest.raises(WeightsError, match="a position table of 0 patches is not square"):
        load(tmp_path / "odd.pth")


@pytest.mark.parametrize("name", ["patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight", "cls_token"])
def test_tensors_of_any_other_shape(full: Path, tmp_path: Path, name: str) -> None:
    backbone = dict(weights.read(full).backbone)
    for shape in ((), (5,), (1, 1), (1, 1, 64), (3, 3, 3), (2, 2, 2, 2)):
        torch.save(backbone | {name: torch.ones(shape)}, tmp_path / "odd.pth")
        with pytest.raises(WeightsError, match=r"odd\.pth"):
            load(tmp_path / "odd.pth")


# dtype, device, words


@pytest.mark.parametrize(
    ("asked", "given"),
    [(None, torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16), (torch.float64, torch.float64)],
)
def test_dtypes(full: Path, tmp_path: Path, asked: str | torch.dtype | None, given: torch.dtype) -> None:
    half = {name: tensor.half() for name, tensor in weights.read(full).backbone.items()}
    torch.save({"state_dict": half}, tmp_path / "half.pth")
    for path in (full, tmp_path / "half.pth"):
        model = load(path, dtype=asked)
        assert {parameter.dtype for parameter in model.parameters()} == {given}
        assert model.dtype == given
        assert str(given).removeprefix("torch.") in repr(model)


def test_what_is_not_what_the_catalogue_says_is_refused(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for change, said in ((("arch", "ViT-S/16"), "holds a ViT-128x2/16"), (("patterns", 8192), "96 patterns")):
        wrong = tuple(replace(entry, **{change[0]: change[1]}) for entry in catalog.CATALOG)
        monkeypatch.setattr(catalog, "CATALOG", wrong)
        with pytest.raises(WeightsError, match=said):
            load("vit_s16", head=True)


def test_a_device_that_is_not_there_is_told(full: Path) -> None:
    for device in ("gpu", "cuda:7"):
        with pytest.raises(UsageError, match=f"cannot be put on '{device}'"):
            load(full, device=device)


def test_a_model_comes_ready_to_use(full: Path) -> None:
    model = load(full, device="cpu")
    assert not any(module.training for module in model.modules())
    assert model.device == torch.device("cpu")
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_model_says_in_one_line_what_it_is(mirror: Path, full: Path, tmp_path: Path) -> None:
    assert repr(load("vit_s16")) == "Model(vit_s16: ViT-128x2/16, teacher network, unverified, without head, float32 on cpu)"
    assert repr(load(full, "student")) == f"Model({full}: ViT-128x2/16, student network, with head, float32 on cpu)"
    flat = tmp_path / "flat.pth"
    torch.save(dict(weights.read(full).backbone), flat)
    assert repr(load(flat)) == f"Model({flat}: ViT-128x2/16, network not stated, without head, float32 on cpu)"
