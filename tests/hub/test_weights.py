"""Every container is read strictly, or refused in one sentence that names it; no pickle is ever run."""

import argparse
import json
import math
import os
import pickle
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ibot_hub import weights
from ibot_hub.backbones import build_backbone
from ibot_hub.errors import WeightsError
from ibot_hub.origin import Origin
from ibot_hub.tokens import Tokens
from ibot_hub.weights import Weights

State = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other at every small tensor cost four times the work, where others use the machine too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def path(golden: Path) -> Path:
    """A full checkpoint in the official layout."""
    return golden / "vit_micro_checkpoint.pth"


@pytest.fixture(scope="module")
def full(path: Path) -> dict[str, State]:
    """What torch itself reads from it."""
    return torch.load(path, weights_only=False)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def teacher(full: dict[str, State]) -> State:
    return bare(full["teacher"], "backbone.")


def bare(state: Mapping[str, Tensor], prefix: str) -> State:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def assert_equal(ours: Mapping[str, Tensor] | None, theirs: Mapping[str, Tensor]) -> None:
    assert ours is not None
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in theirs)


def saved(content: object, path: Path, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def refusal(path: Path, **asked: Any) -> str:
    """The sentence that refuses `path`; it names it, it is one line, and says more than torch's first words."""
    with pytest.raises(WeightsError) as caught:
        weights.read(path, **asked)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert message.endswith(".")
    return message


# the official full checkpoint


def test_the_teacher_is_taken_where_nothing_is_asked(path: Path, full: dict[str, State]) -> None:
    ours = weights.read(path)
    assert_equal(ours.backbone, bare(full["teacher"], "backbone."))
    assert ours.mask_token is None
    assert ours.origin == Origin("teacher", "full")


def test_the_student_sheds_the_prefix_of_ddp_and_brings_its_mask_token(path: Path, full: dict[str, State]) -> None:
    theirs = bare(full["student"], "module.backbone.")
    ours = weights.read(path, "student")
    assert ours.mask_token is not None
    assert_equal({**ours.backbone, "masked_embed": ours.mask_token}, theirs)
    assert ours.origin == Origin("student", "full")


@pytest.mark.parametrize(("network", "prefix"), [("teacher", "head."), ("student", "module.head.")])
def test_the_head_comes_along_with_its_shared_layer_once(path: Path, full: dict[str, State], network: str, prefix: str) -> None:
    theirs = bare(full[network], prefix)
    assert torch.equal(theirs["last_layer.weight_v"], theirs["last_layer2.weight_v"])
    once = {name: tensor for name, tensor in theirs.items() if not name.startswith("last_layer2.")}
    assert_equal(weights.read(path, network).head, once)
    assert_equal(weights.read(path, network, head=True).head, once)
    assert weights.read(path, network, head=False).head is None


def test_a_separate_layer_for_the_patches_is_kept(full: dict[str, State], tmp_path: Path) -> None:
    teacher = dict(full["teacher"])
    teacher["head.last_layer2.weight_v"] = torch.randn(50, 32)
    teacher["head.last_layer2.weight_g"] = torch.ones(50, 1)
    ours = weights.read(saved({"teacher": teacher}, tmp_path / "separate.pth"))
    assert_equal(ours.head, bare(teacher, "head."))


def test_the_tensors_outlive_the_file(path: Path, teacher: State, tmp_path: Path) -> None:
    copy = tmp_path / "copy.pth"
    copy.write_bytes(path.read_bytes())
    ours = weights.read(copy)
    copy.write_bytes(b"\0" * copy.stat().st_size)  # the same inode, which is mapped while it is read
    assert_equal(ours.backbone, teacher)


# other layouts


@pytest.mark.parametrize("legacy", [False, True])
def test_official_backbone_only_files(teacher: State, full: dict[str, State], tmp_path: Path, legacy: bool) -> None:
    student = bare(full["student"], "module.backbone.")
    for network, state in (("teacher", teacher), ("student", student)):
        file = saved({"state_dict": state}, tmp_path / f"checkpoint_{network}.pth", _use_new_zipfile_serialization=not legacy)
        ours = weights.read(file)
        assert (ours.origin.network, ours.head) == (network, None)
        assert (ours.mask_token is None) == (network == "teacher")
        assert_equal(ours.backbone, {name: tensor for name, tensor in state.items() if name != "masked_embed"})
        assert_equal(weights.read(file, network).backbone, ours.backbone)


def test_a_swin_loses_the_tables_that_follow_from_its_window(golden: Path) -> None:
    path = golden / "swin_micro_w14_checkpoint_teacher.pth"
    theirs = torch.load(path, weights_only=True)["state_dict"]
    ours = weights.read(path).backbone
    assert len(theirs) - len(ours) == sum(name.endswith("relative_position_index") for name in theirs) > 0
    assert torch.equal(ours["layers.3.downsample.reduction.weight"], theirs["layers.2.downsample.reduction.weight"])


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


LAYOUTS: dict[str, tuple[Callable[[State, State], State], str | None]] = {
    "flat, as of DINO": (lambda backbone, head: backbone, None),
    "module.": (lambda backbone, head: prefixed("module.", backbone | head), None),
    "encoder.": (lambda backbone, head: prefixed("encoder.", backbone), None),
    "module.encoder.": (lambda backbone, head: prefixed("module.encoder.", backbone), None),
    "module.backbone.": (lambda backbone, head: prefixed("module.", prefixed("backbone.", backbone) | head), None),
    "model": (lambda backbone, head: {"model": backbone, "epoch": 3}, None),
    "teacher alone, as of VisionFM": (lambda backbone, head: {"teacher": prefixed("backbone.", backbone) | head, "epoch": 3}, "teacher"),
    "student alone": (lambda backbone, head: {"student": prefixed("module.backbone.", backbone), "config": {"a": 1}}, "student"),
    "extracted with its head": (lambda backbone, head: {"state_dict": backbone | head}, "teacher"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_others(teacher: State, full: dict[str, State], tmp_path: Path, layout: str) -> None:
    head = {name: tensor for name, tensor in full["teacher"].items() if name.startswith("head.")}
    make, network = LAYOUTS[layout]
    content = make(teacher, head)
    files = [saved(content, tmp_path / "file.pth")]
    if all(isinstance(value, Tensor) for value in content.values()):
        files.append(tmp_path / "file.safetensors")
        save_file({name: tensor.clone() for name, tensor in content.items()}, files[1])
    for file in files:
        ours = weights.read(file)
        assert_equal(ours.backbone, teacher)
        assert ours.origin.network == network
        assert (ours.head is not None) == any(
            "head." in name for value in (content, *content.values()) if isinstance(value, dict) for name in value
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_kept(teacher: State, tmp_path: Path, dtype: torch.dtype) -> None:
    theirs = {name: tensor.to(dtype) for name, tensor in teacher.items()}
    assert_equal(weights.read(saved({"state_dict": theirs}, tmp_path / "file.pth")).backbone, theirs)


def test_a_dino_head_has_one_layer_and_parametrised_names_are_the_old_ones(full: dict[str, State], tmp_path: Path) -> None:
    theirs = {name: tensor for name, tensor in bare(full["teacher"], "head.").items() if not name.startswith("last_layer2.")}
    modern = {"last_layer.weight_g": "original0", "last_layer.weight_v": "original1"}
    renamed = {f"last_layer.parametrizations.weight.{modern[name]}" if name in modern else name: t for name, t in theirs.items()}
    for index, head in enumerate((theirs, renamed)):
        state = {name: tensor for name, tensor in full["teacher"].items() if not name.startswith("head.")} | prefixed("head.", head)
        assert_equal(weights.read(saved({"teacher": state, "dino_loss": {}}, tmp_path / f"dino{index}.pth")).head, theirs)


# the file of this library


@pytest.mark.parametrize("network", ["teacher", "student"])
def test_what_is_saved_is_read_bit_for_bit(path: Path, tmp_path: Path, network: str) -> None:
    read = weights.read(path, network)
    original = replace(read, origin=Origin(network, "made", heads=2, eps=1e-6, mean=(0.1, 1 / 3, 0.5), std=(0.2, 0.3, 0.4)))
    file = tmp_path / "saved.safetensors"
    weights.save(original, file)
    ours = weights.read(file, network)
    assert ours.origin == original.origin
    assert_equal(ours.backbone, original.backbone)
    assert_equal(ours.head, original.head or {})
    assert (ours.mask_token is None) == (original.mask_token is None) == (network == "teacher")
    assert ours.mask_token is None or torch.equal(ours.mask_token, original.mask_token)  # type: ignore[arg-type]
    assert weights.read(file, head=False).head is None


@pytest.mark.parametrize("suffix", [".safetensors", ".weights"])
def test_a_header_whose_length_begins_as_a_pickle_does(path: Path, tmp_path: Path, suffix: str) -> None:
    """One header in 32 has a length whose first byte is 0x80; one in 8192 goes on with the 0x02 of a pickle."""
    original, file = weights.read(path, "student"), tmp_path / f"saved{suffix}"
    weights.save(original, file)
    length = int.from_bytes(file.read_bytes()[:8], "little")
    for start in (b"\x80", b"\x80\x02"):
        filling = (int.from_bytes(start, "little") - length) % 256 ** len(start)
        odd = replace(original, origin=replace(original.origin, container="full" + "x" * filling))
        weights.save(odd, file)
        assert file.read_bytes().startswith(start)
        ours = weights.read(file)
        assert ours.origin == odd.origin
        assert_equal(ours.backbone, original.backbone)


# the folder of a run


def test_a_run_holds_the_networks_that_it_exported(path: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_bytes(b"")
    assert "is a run that has not saved a network yet; wait for its first checkpoint" in refusal(tmp_path)
    student, teacher = weights.read(path, "student"), weights.read(path, "teacher")
    weights.save(student, tmp_path / "student.safetensors")
    assert_equal(weights.read(tmp_path).backbone, student.backbone)
    assert "holds the student, not the teacher." in refusal(tmp_path, network="teacher")
    weights.save(teacher, tmp_path / "teacher.safetensors")
    for asked, network in ((None, teacher), ("teacher", teacher), ("student", student)):
        ours = weights.read(tmp_path, asked)
        assert ours.origin == network.origin
        assert_equal(ours.backbone, network.backbone)
        assert_equal(ours.head, network.head or {})
        assert (ours.mask_token is None) == (network is teacher)


def test_a_file_of_a_run_is_what_its_name_says(path: Path, tmp_path: Path) -> None:
    weights.save(weights.read(path, "student"), tmp_path / "teacher.safetensors")
    assert "teacher.safetensors holds the student; the teacher was asked for" in refusal(tmp_path)


# folders of transformers and timm


def flat(tokens: Tokens) -> Tensor:
    """[B, 1 + N, D], as the others have it."""
    return torch.cat([tokens.cls[:, None], tokens.patches.flatten(1, 2)], dim=1)


@pytest.fixture(scope="module")
def transformers_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """ViTs written by the real library, at once because its import takes seconds."""
    from transformers import BitImageProcessor, ViTConfig, ViTForImageClassification, ViTModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    # heads that the width does not tell, an MLP that is not four times as wide, sharp weights so that an error in either shows
    facts = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 200, "image_size": 64}
    facts |= {"layer_norm_eps": 1e-6, "initializer_range": 0.3}
    folder = tmp_path_factory.mktemp("transformers")
    models = {
        "plain": ViTModel(ViTConfig(**facts), add_pooling_layer=False),
        "pooler": ViTModel(ViTConfig(**facts), add_pooling_layer=True),
        "classifier": ViTForImageClassification(ViTConfig(**facts)),
        "eps": ViTModel(ViTConfig(**facts | {"layer_norm_eps": 0.5}), add_pooling_layer=False),
    }
    for name, model in models.items():
        model.eval().save_pretrained(folder / name)
    BitImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]).save_pretrained(folder / "pooler")
    return {name: (folder / name, getattr(model, "vit", model)) for name, model in models.items()}


@pytest.mark.parametrize("name", ["plain", "pooler", "classifier", "eps"])
@torch.no_grad()
def test_a_folder_of_transformers(transformers_folders: dict[str, tuple[Path, Any]], name: str) -> None:
    folder, theirs = transformers_folders[name]
    names = load_file(folder / "model.safetensors")
    assert any(key.startswith("vit.") for key in names) == (name == "classifier")
    assert sum("encoder.layer.1.attention.attention.query" in key for key in names) == 2  # the form of version 4, as Phikon's
    ours = weights.read(folder)
    assert ours.origin.container == "transformers"
    assert (ours.origin.network, ours.head, ours.mask_token) == (None, None, None)
    given = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)) if name == "pooler" else (None, None)
    assert (ours.origin.mean, ours.origin.std) == given
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    tokens = flat(build_backbone(ours, folder).eval()(images))
    assert (tokens - theirs(images).last_hidden_state).abs().max().item() <= 1e-5


def test_what_a_config_of_transformers_leaves_out_is_its_default(transformers_folders: dict[str, tuple[Path, Any]], tmp_path: Path) -> None:
    folder, _ = transformers_folders["plain"]
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    assert weights.read(tmp_path).origin == Origin(None, "transformers", heads=12, eps=1e-12)
    (tmp_path / "config.json").write_text('{"model_type": "vit", "hidden_act": "quick_gelu"}')
    assert "activation 'quick_gelu'" in refusal(tmp_path)


def timm_folder(folder: Path, model: Any, architecture: str, model_args: State, **facts: Any) -> Path:
    folder.mkdir()
    config = {"architecture": architecture, "num_classes": 0, "model_args": model_args} | facts
    (folder / "config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), folder / "model.safetensors")
    return folder


VIT_ARGS = {"embed_dim": 96, "depth": 2, "num_heads": 4, "mlp_ratio": 2.0}


@pytest.mark.parametrize("classes", [0, 10])
@torch.no_grad()
def test_a_folder_of_timm(tmp_path: Path, classes: int) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=classes, **VIT_ARGS).eval()
    for block in theirs.blocks:
        torch.nn.init.normal_(block.attn.qkv.weight, std=0.2)
    cfg = {"mean": [0.5, 0.6, 0.7], "std": [0.1, 0.2, 0.3]}
    folder = timm_folder(tmp_path / "vit", theirs, "vit_tiny_patch16_224", VIT_ARGS, pretrained_cfg=cfg)
    ours = weights.read(folder)
    assert ours.origin == Origin(None, "timm", heads=4, eps=1e-6, mean=(0.5, 0.6, 0.7), std=(0.1, 0.2, 0.3))
    assert ours.head is None
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    assert torch.equal(flat(build_backbone(ours, folder).eval()(images)), theirs.forward_features(images))


def test_timm_knows_the_heads_of_its_architectures(tmp_path: Path) -> None:
    # 1280 / 64 would be 20
    args = {"depth": 1, "embed_dim": 1280}
    model = timm.create_model("vit_huge_patch14_224", num_classes=0, **args)
    assert weights.read(timm_folder(tmp_path / "vit", model, "vit_huge_patch14_224", args)).origin.heads == 16


@torch.no_grad()
def test_a_swin_of_timm_with_a_classifier(tmp_path: Path) -> None:
    args: State = {"embed_dim": 16, "num_heads": (1, 2, 4, 8), "depths": (1, 1, 1, 1)}
    theirs = timm.create_model("swin_tiny_patch4_window7_224", num_classes=10, **args).eval()
    folder = timm_folder(tmp_path / "swin", theirs, "swin_tiny_patch4_window7_224", args, mean=[0.1, 0.2, 0.3])
    ours = weights.read(folder)
    assert ours.head is None
    assert (ours.origin.mean, ours.origin.std) == ((0.1, 0.2, 0.3), None)  # a config of old has them at the top
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    difference = build_backbone(ours, folder).eval()(images).patches - theirs.forward_features(images)
    assert difference.abs().max().item() <= 1e-3  # the eps of timm's own Swin is 1e-5


FOLDERS: dict[str, tuple[str | None, str]] = {
    "no config": (None, "has no config.json; give the checkpoint file itself, or the folder of a run"),
    "no JSON": ("{'model_type': 'vit'}", "config.json is not JSON: Expecting property name"),
    "no text": ("\udcff", "config.json is not JSON: "),
    "a list": ("[1, 2]", "config.json holds a list, not named settings"),
    "unknown type": ('{"model_type": "dinov2"}', "describes 'dinov2'; a ViT or Swin of transformers or of timm can be read"),
    "unknown architecture": ('{"architecture": "resnet50"}', "describes 'resnet50'"),
    "nothing": ("{}", "describes 'nothing known'"),
    "unknown to timm": ('{"architecture": "vit_odd"}', "describes a model that timm"),
    "unfit for timm": ('{"architecture": "vit_tiny_patch16_224", "model_args": {"odd": 1}}', "describes a model that timm"),
    "odd mean": ('{"architecture": "vit_tiny_patch16_224", "mean": [0.5]}', r"config.json gives [0.5] for a mean or std; it takes three"),
    "odd std": ('{"architecture": "vit_tiny_patch16_224", "std": 7}', r"config.json gives 7 for a mean or std; it takes three numbers"),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLDERS)
def test_folders_that_are_none_of_these(teacher: State, tmp_path: Path, case: str) -> None:
    config, said = FOLDERS[case]
    save_file(teacher, tmp_path / "model.safetensors")
    if config is not None:
        (tmp_path / "config.json").write_bytes(config.encode("utf-8", "surrogateescape"))
    assert said in refusal(tmp_path)


def test_a_folder_with_a_pickle_alone_names_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    assert "has no model.safetensors; save it again" in refusal(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"anything")
    assert "has no model.safetensors, only pytorch_model.bin; save it again with safetensors" in refusal(tmp_path)


# pickles


def with_global(file: Path, old: bytes, new: bytes) -> None:
    """Replace the name of a global in the pickle inside a file of `torch.save`."""
    with zipfile.ZipFile(file) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in content if name.endswith("/data.pkl"))
    changed = content[name].replace(b"c" + old, b"c" + new)
    assert b"c" + new in changed
    content[name] = changed
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_pickled_numpy_scalars_under_the_names_of_old_and_of_new_numpy(teacher: State, tmp_path: Path, module: bytes) -> None:
    ours = np.float64(0).__reduce__()[0].__module__.encode()  # type: ignore[union-attr]
    arguments = argparse.Namespace(lr=np.float64(0.0005), arch="vit_small", ratios=[0.0, 0.3])
    optimizer = {"param_groups": [{"lr": np.float64(0.1), "weight_decay": np.float64(0.4)}]}
    file = saved({"teacher": teacher, "args": arguments, "optimizer": optimizer, "epoch": 800}, tmp_path / "full.pth")
    with_global(file, ours + b"\nscalar\n", module + b"\nscalar\n")
    assert_equal(weights.read(file).backbone, teacher)


class Touch:
    """Pickled, it is a call of `os.system`."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("kind", ["zip", "legacy", "bare", "protocol 4", "by another name"])
def test_a_pickle_that_wants_to_run_code_is_not_run(teacher: State, tmp_path: Path, kind: str) -> None:
    marker, file = tmp_path / "marker", tmp_path / "evil.pth"
    evil = {"state_dict": teacher, "args": Touch(marker)}
    said = "is a pickle that wants to run posix.system, and no pickle is ever run; ask for a safetensors file"
    if kind in ("zip", "legacy"):
        torch.save(evil, file, _use_new_zipfile_serialization=kind == "zip")
    elif kind == "by another name":
        file = tmp_path / "model.safetensors"
        file.write_bytes(pickle.dumps(Touch(marker), protocol=2))
        said = "is not a checkpoint, or is cut off"
    else:
        file.write_bytes(pickle.dumps(Touch(marker), protocol=2 if kind == "bare" else 4))
        said = said if kind == "bare" else "is not a checkpoint, or is damaged"
    assert said in refusal(file)
    assert not marker.exists()
    torch.load(saved(evil, tmp_path / "evil.pth"), weights_only=False)
    assert marker.exists()  # so it would have been run


@pytest.mark.parametrize("legacy", [False, True])
def test_truncated_pickles(teacher: State, tmp_path: Path, legacy: bool) -> None:
    file = saved({"state_dict": teacher}, tmp_path / "cut.pth", _use_new_zipfile_serialization=not legacy)
    content = file.read_bytes()
    for size in (3, 5, 12, 100, 1000, 3000, len(content) // 2, len(content) - 1000, len(content) - 1):
        file.write_bytes(content[:size])
        message = refusal(file)
        assert "is not a checkpoint, or is " in message
        assert message.endswith("fetch it again.")


NO_CHECKPOINTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is not a checkpoint, or is damaged"),
    "text": (b"<html><body>Not found</body></html>\n" * 9, "is not a checkpoint, or is damaged"),
    "pickled list": (pickle.dumps([1, 2]), "is not a checkpoint"),
    "pickled list of old": (pickle.dumps([1, 2], protocol=2), "is not a checkpoint"),
    "another zip": (b"PK\x05\x06" + b"\0" * 18, "is not a checkpoint"),
    "a zip on several disks": (b"PK\x03\x04PK\x06\x07" + b"\x02" * 16 + b"PK\x05\x06" + b"\0" * 18, "is not a checkpoint, or is cut off"),
}  # fmt: skip


@pytest.mark.parametrize("case", NO_CHECKPOINTS)
def test_files_that_are_no_checkpoint(tmp_path: Path, case: str) -> None:
    content, said = NO_CHECKPOINTS[case]
    file = tmp_path / "file.pth"
    file.write_bytes(content)
    assert said in refusal(file)


def test_checkpoints_of_other_things(tmp_path: Path) -> None:
    assert "it holds a list, not named tensors" in refusal(saved([torch.ones(1)], tmp_path / "list.pth"))
    assert "holds no backbone: none of its tensors" in refusal(saved({"epoch": 3, "lr": 0.1}, tmp_path / "numbers.pth"))
    assert "holds no backbone" in refusal(saved({"teacher": {}}, tmp_path / "hollow.pth"))
    with zipfile.ZipFile(tmp_path / "archive.pth", "w") as archive:
        archive.writestr("readme", "hello")
    assert "is not a checkpoint, or is cut off" in refusal(tmp_path / "archive.pth")


def test_what_is_not_there_is_refused(path: Path, teacher: State, full: dict[str, State], tmp_path: Path) -> None:
    assert "does not exist; give a file, a folder, or a name" in refusal(tmp_path / "nowhere.pth")
    only = saved({"teacher": full["teacher"]}, tmp_path / "teacher.pth")
    assert "holds the teacher, not the student" in refusal(only, network="student")
    backbone = saved({"state_dict": teacher}, tmp_path / "backbone.pth")
    assert "holds the teacher; the student was asked for. Leave `network` out" in refusal(backbone, network="student")
    dino = saved(teacher, tmp_path / "flat.pth")
    assert "holds one network and does not say which; the teacher was asked for" in refusal(dino, network="teacher")
    canonical = tmp_path / "canonical.safetensors"
    weights.save(weights.read(path, "student"), canonical)
    assert "holds the student; the teacher was asked for" in refusal(canonical, network="teacher")
    assert "holds no projection head; the full checkpoint has it" in refusal(backbone, head=True)


# values


@pytest.mark.parametrize(
    ("name", "value", "dtype"),
    [
        ("backbone.norm.weight", math.nan, torch.float32),
        ("backbone.pos_embed", -math.inf, torch.float32),
        ("backbone.norm.weight", math.inf, torch.float16),
        ("backbone.norm.weight", math.nan, torch.bfloat16),
        ("backbone.norm.weight", math.nan, torch.float64),
        ("head.mlp.2.bias", math.nan, torch.float32),
        ("head.last_layer.weight_v", math.inf, torch.float16),
        ("masked_embed", math.nan, torch.float32),
    ],
)
def test_values_that_are_not_finite(full: dict[str, State], tmp_path: Path, name: str, value: float, dtype: torch.dtype) -> None:
    state = {key: tensor.to(dtype) for key, tensor in full["teacher"].items()} | {"masked_embed": torch.ones(1, 128, dtype=dtype)}
    state[name] = state[name].clone()
    state[name].flatten()[-1] = value
    file = saved({"teacher": state}, tmp_path / "diverged.pth")
    told = {"masked_embed": "mask_token"}.get(name, name)
    assert f"tensor '{told}' holds NaN or infinite values" in refusal(file)
    weights.read(file, check_finite=False)
    if name.startswith("head."):
        weights.read(file, head=False)  # what is left out is not looked at


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8, torch.float8_e4m3fn, torch.complex64])
def test_numbers_that_are_no_weights(teacher: State, tmp_path: Path, dtype: torch.dtype) -> None:
    for name in ("norm.weight", "counter"):
        file = tmp_path / "odd.safetensors"
        save_file(teacher | {name: torch.ones(128).to(dtype)}, file)
        assert f"tensor 'backbone.{name}' is {str(dtype).removeprefix('torch.')} (128,); weights are floating-point" in refusal(file)


def test_a_tensor_without_numbers(teacher: State, tmp_path: Path) -> None:
    assert "'backbone.pos_embed' is float32 (1, 0, 128)" in refusal(
        saved(teacher | {"pos_embed": torch.ones(1, 0, 128)}, tmp_path / "empty.pth")
    )


# safetensors that lie


def entry(start: int, stop: int, dtype: str = "F32", shape: tuple[int, ...] = (4,)) -> State:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


HEADERS: dict[str, object] = {
    "beyond the file": {"pos_embed": entry(0, 1600, shape=(400,))},
    "starting beyond the file": {"pos_embed": entry(10**12, 10**12 + 16)},
    "overlapping": {"cls_token": entry(0, 16), "pos_embed": entry(8, 24)},
    "a gap": {"cls_token": entry(0, 8, shape=(2,)), "pos_embed": entry(20, 32, shape=(3,))},
    "not the whole file": {"cls_token": entry(0, 16)},
    "a wider dtype than its bytes": {"cls_token": entry(0, 32, dtype="F64", shape=(8,))},
    "an unknown dtype": {"cls_token": entry(0, 32, dtype="F99", shape=(8,))},
    "a shape that overflows": {"cls_token": entry(0, 32, shape=(2**62, 2**62))},
    "a negative side": {"cls_token": entry(0, 32, shape=(-8,))},
    "a list": [1, 2],
}  # fmt: skip


def with_header(file: Path, header: bytes, length: int | None = None, body: bytes = b"\0" * 32) -> Path:
    file.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + body)
    return file


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_that_lies(tmp_path: Path, case: str) -> None:
    file = with_header(tmp_path / "lie.safetensors", json.dumps(HEADERS[case]).encode())
    assert "is not a checkpoint, or is damaged: " in refusal(file)


@pytest.mark.parametrize("length", [0, 7, 10_000, 90_000_000, 2**62, 2**64 - 1])
def test_a_length_that_lies(tmp_path: Path, length: int) -> None:
    header = json.dumps({"cls_token": entry(0, 32, shape=(8,))}).encode()
    weights.read(with_header(tmp_path / "honest.safetensors", header))
    assert "is not a checkpoint, or is damaged: " in refusal(with_header(tmp_path / "lie.safetensors", header, length))


def test_truncated_safetensors(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "cut.safetensors"
    weights.save(weights.read(path), file)
    content = file.read_bytes()
    for size in (1, 8, 9, 100, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:size])
        assert "is not a checkpoint, or is damaged: " in refusal(file)


@pytest.mark.parametrize("text", ["not JSON", "[1]", "{}", '{"mean": null, "std": null, "unheard_of": 1}'])
def test_metadata_that_is_not_ours(teacher: State, tmp_path: Path, text: str) -> None:
    file = tmp_path / "odd.safetensors"
    save_file(prefixed("backbone.", teacher), file, {"ibot_hub": text})
    assert f"its metadata `ibot_hub` cannot be read ({text[:60]!r})" in refusal(file)


def test_metadata_with_an_odd_mean(teacher: State, tmp_path: Path) -> None:
    file = tmp_path / "odd.safetensors"
    save_file(prefixed("backbone.", teacher), file, {"ibot_hub": '{"mean": [1, "x", 3], "std": null}'})
    assert "gives [1, 'x', 3] for a mean or std; it takes three numbers" in refusal(file)


# permissions


@contextmanager
def ordinary_user() -> Iterator[None]:
    """No permission stops root, so root is someone else for a moment."""
    me = os.geteuid()
    if me == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(me)


def test_what_may_not_be_read(path: Path, teacher: State) -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "closed").mkdir()
        saved({"state_dict": teacher}, folder / "closed" / "file.pth")
        (folder / "full.pth").write_bytes(path.read_bytes())
        save_file(teacher, folder / "flat.safetensors")
        timm_folder(folder / "timm", torch.nn.Linear(1, 1), "vit_tiny_patch16_224", {})
        closed = [folder / file for file in ("closed", "full.pth", "flat.safetensors", "timm/config.json")]
        for file in closed:
            file.chmod(0)
        with ordinary_user():
            for file in (
                folder / "full.pth",
                folder / "flat.safetensors",
                folder / "closed",
                folder / "closed" / "file.pth",
                folder / "timm",
            ):
                assert "cannot be read: Permission denied" in refusal(file)
        for file in closed:
            file.chmod(0o700)


def test_a_weights_object_holds_what_it_was_given(teacher: State) -> None:
    held = Weights(teacher, None, None, Origin("teacher"))
    with pytest.raises(AttributeError):
        held.origin = Origin("student")  # type: ignore[misc]
