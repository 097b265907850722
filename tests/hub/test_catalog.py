"""The catalogue says what was published, where, and under which names."""

import hashlib
import re
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

import ibot_hub
from ibot_hub.catalog import CATALOG, info, list_models
from ibot_hub.errors import UnknownModelError

OFFICIAL = (
    "vit_s16", "swin_t7", "swin_t14", "vit_b16", "vit_b16_rand", "vit_l16", "vit_l16_rand", "vit_b16_in22k", "vit_l16_in22k",
    "vit_s16_k1000",
)  # fmt: skip
HOST = "https://lf3-nlp-opensource.bytetos.com/obj/nlp-opensource/archive/2022/ibot"
# parameters of the backbones and of their heads with 8192 patterns, as counted in the official code
PARAMETERS = {
    "ViT-S/16": (21_665_664, 7_614_720), "ViT-B/16": (85_798_656, 8_401_152), "ViT-L/16": (303_301_632, 8_925_440),
    "Swin-T/7": (27_519_354, 8_401_152), "Swin-T/14": (27_569_754, 8_401_152),
}  # fmt: skip


def test_the_names_that_users_rely_on() -> None:
    names = list_models()
    assert len(set(names)) == len(names)
    assert tuple(names[: 1 + len(OFFICIAL)]) == ("tiny", *OFFICIAL)
    assert {"phikon", "phikon_timm", "attmask_vit_s16", "fewture_vit_s16", "fewture_swin_t7", "visionfm_fundus", "visionfm_oct"} < set(
        names
    )
    assert list_models("dino_*") == ["dino_vit_s16", "dino_vit_s8", "dino_vit_b16", "dino_vit_b8"]


def test_a_pattern_selects_names() -> None:
    assert list_models("vit_*") == [name for name in OFFICIAL if name.startswith("vit_")]
    assert list_models("swin_t?") == ["swin_t7"]
    assert list_models("VIT_*") == []


@pytest.mark.parametrize(
    ("name", "folder", "network", "k_nn", "linear"),
    [
        ("vit_s16", "vits_16", "teacher", 75.2, 77.9),
        ("swin_t7", "swint_7", "teacher", 75.3, 78.6),
        ("swin_t14", "swint_14", "teacher", 76.2, 79.3),
        ("vit_b16", "vitb_16", "teacher", 77.1, 79.5),
        ("vit_b16_rand", "vitb_16_rand_mask", "teacher", 77.3, 79.8),
        ("vit_l16", "vitl_16", "teacher", 78.0, 81.0),
        ("vit_l16_rand", "vitl_16_rand_mask", "teacher", 77.7, 81.3),
        ("vit_b16_in22k", "vitb_16_pt22k", "student", 71.1, 79.0),
        ("vit_l16_in22k", "vitl_16_pt22k", "student", 72.9, 82.3),
    ],
)
def test_official_checkpoints(name: str, folder: str, network: str, k_nn: float, linear: float) -> None:
    entry = info(name)
    other = "student" if network == "teacher" else "teacher"
    backbone = f"checkpoint_{network}.pth"
    assert entry.network == network
    assert entry.url() == entry.url(backbone) == f"{HOST}/{folder}/{backbone}"
    assert entry.url("checkpoint.pth") == f"{HOST}/{folder}/checkpoint.pth"
    assert entry.file_for(None, head=False) == entry.file_for(network, head=False) == backbone
    # the head, and the other network, are only in the full checkpoint
    assert entry.file_for(None, head=True) == entry.file_for(other, head=False) == entry.file_for(other, head=True) == "checkpoint.pth"
    assert (entry.metrics["k-NN"], entry.metrics["linear"]) == (k_nn, linear)


def test_the_thousand_way_model_is_published_whole_only() -> None:
    entry = info("vit_s16_k1000")
    assert entry.file_for("teacher", head=False) == entry.file_for(None, head=True) == "checkpoint.pth"
    assert entry.url() == f"{HOST}/vits_16_out_dim_1000/checkpoint.pth"
    assert entry.patterns == 1000


def test_models_of_the_hub_and_models_to_be_had_by_hand() -> None:
    assert info("phikon").url() == "https://huggingface.co/owkin/phikon"
    assert info("phikon").file_for("teacher", head=True) is None
    fundus = info("visionfm_fundus")
    assert fundus.url() is None
    assert fundus.file_for("teacher", head=False) == "checkpoint.pth"
    assert {name for name in list_models() if info(name).resize == "squash"} == {"phikon", "phikon_timm", *list_models("visionfm_*")}
    assert (fundus.mean, fundus.std) == ((0.4237, 0.2609, 0.1284), (0.2948, 0.2017, 0.1367))


def test_the_baselines_are_of_dino_and_of_dinov2() -> None:
    for name, repository in (
        ("dinov2_vit_s14", "timm/vit_small_patch14_dinov2.lvd142m"),
        ("dinov2_vit_b14", "timm/vit_base_patch14_dinov2.lvd142m"),
    ):
        assert (info(name).repository, info(name).network) == (repository, None)
    entry = info("dino_vit_s8")
    assert entry.file_for(None, head=False) == "dino_deitsmall8_pretrain.pth"
    assert entry.url(entry.full_file) == (
        "https://dl.fbaipublicfiles.com/dino/dino_deitsmall8_pretrain/dino_deitsmall8_pretrain_full_checkpoint.pth"
    )


@pytest.mark.parametrize("name", OFFICIAL)
def test_sizes_follow_from_the_parameters(name: str) -> None:
    entry = info(name)
    backbone, head = PARAMETERS[entry.arch]
    head -= 257 * (8192 - (entry.patterns or 0))
    tables = {"Swin-T/7": 12 * 49**2, "Swin-T/14": 10 * 196**2 + 2 * 49**2}.get(entry.arch, 0) * 8  # int64, one a block
    # float32 of student, teacher, and two moments of the optimiser
    assert entry.sizes["checkpoint.pth"] == pytest.approx(16 * (backbone + head) + 2 * tables, rel=0.01)
    if entry.backbone_file:
        assert entry.sizes[entry.backbone_file] == pytest.approx(4 * backbone + tables, rel=0.01)


def test_the_embedded_file_is_the_one_of_the_catalogue_and_small() -> None:
    entry = info("tiny")
    folder = Path(ibot_hub.__file__).parent / "embedded"
    file = folder / (entry.embedded or "")
    content = file.read_bytes()
    assert hashlib.sha256(content).hexdigest() == entry.sha256[file.name]
    assert len(content) == entry.sizes[file.name] <= 20_000_000
    card = (folder / "README.md").read_text()
    for fact in (entry.arch, entry.licence, f"{entry.epochs} epochs", f"K = {entry.patterns}", "non-commercial research and education"):
        assert fact in card


def test_every_entry_can_be_had_in_exactly_one_way_and_says_how() -> None:
    for entry in CATALOG:
        assert sum(map(bool, (entry.host, entry.repository, entry.embedded))) <= 1, entry.name
        if not entry.repository and not entry.embedded:
            assert entry.folder, entry.name  # its place below a mirror
            assert entry.file_for(entry.network, head=False), entry.name
        if not entry.host and not entry.repository and not entry.embedded:
            assert "github.com" in entry.notes, entry.name
        assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in entry.sha256.values()), entry.name
        assert set(entry.sha256) | set(entry.sizes) <= {entry.backbone_file, entry.full_file, entry.embedded}, entry.name
        assert re.fullmatch(r"(ViT|Swin)-([TSBL]|\d+x\d+)/\d+", entry.arch), entry.name
        assert entry.licence, entry.name


def test_entries_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        info("vit_s16").network = "student"  # type: ignore[misc]


def test_an_unknown_name_lists_the_nearest() -> None:
    with pytest.raises(UnknownModelError, match=r"No model is called 'vit_s_16': did you mean vit_s16 or .*`ibot models` lists all"):
        info("vit_s_16")
    with pytest.raises(UnknownModelError) as caught:
        info("zzz")
    assert "did you mean" not in str(caught.value)
