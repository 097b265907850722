"""Every published checkpoint as a frozen dataclass: a table, not a registry."""

import difflib
import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ibot_hub.errors import UnknownModelError
from ibot_hub.options import Resize

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

OFFICIAL_HOST = "https://lf3-nlp-opensource.bytetos.com/obj/nlp-opensource/archive/2022/ibot"
DINO_HOST = "https://dl.fbaipublicfiles.com/dino"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One published checkpoint: what it is, where its files are, and what its authors measured.

    A checkpoint is had in one of four ways: from `host` (one folder with a backbone-only and a full file), from a Hugging Face
    `repository`, with the package (`embedded`), or by hand (all three are None; `notes` says where it is to be had).
    """

    name: str
    arch: str  # in words: "ViT-S/16"
    network: str | None  # which network `backbone_file` holds; None where its authors do not say
    data: str
    epochs: int | None = None
    masks: str | None = None  # how patches were hidden in pre-training: "block", "random", None where unknown or not used
    patterns: int | None = None  # K, the width of the head
    host: str | None = None
    folder: str = ""
    backbone_file: str | None = None
    full_file: str | None = None  # student, teacher, heads and optimiser
    repository: str | None = None
    revision: str | None = None
    embedded: str | None = None  # a file of the package, in `ibot_hub/embedded`: backbone and head
    sha256: Mapping[str, str] = field(default_factory=dict)  # file name -> digest, where one is known
    sizes: Mapping[str, int] = field(default_factory=dict)  # file name -> bytes; of what is downloaded predicted (2 % off at most)
    metrics: Mapping[str, float] = field(default_factory=dict)  # published top-1 accuracies on ImageNet-1K in per cent
    licence: str = "Apache-2.0"
    paper: str = "iBOT, ICLR 2022 (arXiv:2111.07832)"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    resize: Resize = "crop"  # how images are fitted, unless they are asked for otherwise
    notes: str = ""

    def file_for(self, network: str | None, head: bool) -> str | None:
        """The file that holds `network` (None: the one of this entry), with its head if asked; None if no file does."""
        if not head and self.backbone_file and network in (None, self.network):
            return self.backbone_file
        return self.full_file

    def url(self, file: str | None = None) -> str | None:
        """Where `file` (default: the backbone, else the full file) is published; None if it has to be had by hand."""
        if self.repository:
            return f"https://huggingface.co/{self.repository}"
        file = file or self.backbone_file or self.full_file
        return f"{self.host}/{self.folder}/{file}" if self.host and file else None


def _official(
    name: str, folder: str, arch: str, megabytes: tuple[int, int], *, backbone: str | None = "checkpoint_teacher.pth", **facts: object
) -> Checkpoint:
    full = "checkpoint.pth"
    sizes = {full: megabytes[1] * 1_000_000} | ({backbone: megabytes[0] * 1_000_000} if backbone else {})
    network = "student" if backbone == "checkpoint_student.pth" else "teacher"
    entry = Checkpoint(
        name=name, arch=arch, network=network, data="ImageNet-1K", masks="block", patterns=8192, host=OFFICIAL_HOST,
        folder=folder, backbone_file=backbone, full_file=full, sizes=sizes,
    )  # fmt: skip
    return replace(entry, **facts)  # type: ignore[arg-type]


def _accuracy(knn: float, linear: float, fine_tuned: float | None = None) -> dict[str, float]:
    return {"k-NN": knn, "linear": linear} | ({"fine-tuned": fine_tuned} if fine_tuned else {})


def _dino(name: str, folder: str, arch: str, megabytes: int, knn: float | None = None, linear: float | None = None) -> Checkpoint:
    return Checkpoint(
        name=name, arch=arch, network="teacher", data="ImageNet-1K", patterns=65536, host=DINO_HOST, folder=folder,
        backbone_file=f"{folder}.pth", full_file=f"{folder}_full_checkpoint.pth", sizes={f"{folder}.pth": megabytes * 1_000_000},
        metrics=_accuracy(knn, linear) if knn and linear else {}, paper="DINO, ICCV 2021 (arXiv:2104.14294)",
        notes="A baseline, not iBOT: its head knows only [CLS].",
    )  # fmt: skip


def _dinov2(name: str, repository: str, arch: str) -> Checkpoint:
    return Checkpoint(
        name=name, arch=arch, network=None, data="LVD-142M", repository=repository,
        paper="DINOv2, TMLR 2024 (arXiv:2304.07193)",
        notes="A baseline, not iBOT, distilled from a larger network; its own size is 518 px, 37 x 37 patches (--size 224: 16 x 16).",
    )  # fmt: skip


_VISIONFM = Checkpoint(
    name="visionfm", arch="ViT-B/16", network="teacher", data="", patterns=8192, full_file="checkpoint.pth",
    licence="see the authors' agreement", paper="VisionFM (github.com/ABILab-CUHK/VisionFM)", resize="squash",
    notes="Behind links of the authors' README (github.com/ABILab-CUHK/VisionFM).",
)  # fmt: skip
_UNKNOWN_EPOCHS = "The paper does not give the epochs of this run."

# fmt: off
CATALOG: tuple[Checkpoint, ...] = (
    Checkpoint(
        name="tiny", arch="ViT-192x4/8", network="teacher", data="Tiny ImageNet, 134 of 200 classes", epochs=8, masks="block",
        patterns=1024, embedded="tiny.safetensors", sizes={"tiny.safetensors": 4_783_728},
        sha256={"tiny.safetensors": "8e349f8b853104b38bf0bbc07044c61c48802e7872fb54fb816613231243a0a7"},
        notes="Ships with the package: 64 px, weak, to try things offline and for tests; vit_b16 has the paper's features. "
        "Its images are for non-commercial research and education (ImageNet's terms).",
    ),
    _official("vit_s16", "vits_16", "ViT-S/16", (87, 469), epochs=800, metrics=_accuracy(75.2, 77.9, 82.3)),
    _official("swin_t7", "swint_7", "Swin-T/7", (110, 575), epochs=300, metrics=_accuracy(75.3, 78.6)),
    _official("swin_t14", "swint_14", "Swin-T/14", (113, 582), epochs=300, metrics=_accuracy(76.2, 79.3)),
    _official(
        "vit_b16", "vitb_16", "ViT-B/16", (343, 1507), epochs=400, metrics=_accuracy(77.1, 79.5, 84.0),
        sha256={"checkpoint_teacher.pth": "734b9c49f46cd330d740f6c35d6a83517aab770a3efd86d7f1175ced582c9b7f"},
        notes="The digest is a third party's; the authors publish none.",
    ),
    _official(
        "vit_b16_rand", "vitb_16_rand_mask", "ViT-B/16", (343, 1507), masks="random", metrics=_accuracy(77.3, 79.8, 84.1),
        notes=_UNKNOWN_EPOCHS,
    ),
    _official(
        "vit_l16", "vitl_16", "ViT-L/16", (1213, 4996), epochs=250, metrics=_accuracy(78.0, 81.0, 84.8),
        notes="250 epochs in the paper's text and Table 2, 300 in Tables 1 and 15.",
    ),
    _official(
        "vit_l16_rand", "vitl_16_rand_mask", "ViT-L/16", (1213, 4996), masks="random", metrics=_accuracy(77.7, 81.3, 85.0),
        notes=_UNKNOWN_EPOCHS,
    ),
    _official(
        "vit_b16_in22k", "vitb_16_pt22k", "ViT-B/16", (343, 1507), backbone="checkpoint_student.pth", data="ImageNet-22K", epochs=80,
        metrics=_accuracy(71.1, 79.0, 84.4), notes="The published numbers are the student's; fine-tuned at 256 px.",
    ),
    _official(
        "vit_l16_in22k", "vitl_16_pt22k", "ViT-L/16", (1213, 4996), backbone="checkpoint_student.pth", data="ImageNet-22K", epochs=50,
        metrics=_accuracy(72.9, 82.3, 86.6), notes="The published numbers are the student's; fine-tuned at 256 px (384: 87.5, 512: 87.8).",
    ),
    _official(
        "vit_s16_k1000", "vits_16_out_dim_1000", "ViT-S/16", (87, 439), backbone=None, masks=None, patterns=1000,
        notes="For unsupervised classification (Table 5); published as a full checkpoint only.",
    ),
    Checkpoint(
        name="phikon", arch="ViT-B/16", network="teacher", data="40 M TCGA tiles, 16 cancers", repository="owkin/phikon",
        licence="Owkin non-commercial", paper="Phikon (Filiot et al., 2023)", resize="squash",
        notes="Pathology, 224 px tiles at 0.5 um/px; revisions before 2023-10-31 held the student and a wrong eps.",
    ),
    Checkpoint(
        name="phikon_timm", arch="ViT-B/16", network="teacher", data="40 M TCGA tiles, 16 cancers",
        repository="1aurent/vit_base_patch16_224.owkin_pancancer", licence="Owkin non-commercial",
        paper="Phikon (Filiot et al., 2023)", resize="squash", notes="The weights of `phikon` in timm's layout.",
    ),
    Checkpoint(
        name="attmask_vit_s16", arch="ViT-S/16", network="teacher", data="ImageNet-1K", patterns=8192, folder="attmask_vit_s16",
        full_file="checkpoint.pth", masks="attention", paper="AttMask, ECCV 2022 (arXiv:2203.12719)",
        notes="Behind links of the authors' README (github.com/gkakogeorgiou/attmask).",
    ),
    Checkpoint(
        name="fewture_vit_s16", arch="ViT-S/16", network="teacher", data="miniImageNet", folder="fewture_vit_s16",
        full_file="checkpoint.pth", masks="block", paper="FewTURE, NeurIPS 2022 (arXiv:2206.07267)",
        notes="Behind links of the authors' README (github.com/mrkshllr/FewTURE).",
    ),
    Checkpoint(
        name="fewture_swin_t7", arch="Swin-T/7", network="teacher", data="miniImageNet", folder="fewture_swin_t7",
        full_file="checkpoint.pth", masks="block", paper="FewTURE, NeurIPS 2022 (arXiv:2206.07267)",
        notes="Behind links of the authors' README (github.com/mrkshllr/FewTURE).",
    ),
    replace(
        _VISIONFM, name="visionfm_fundus", folder="visionfm_fundus", data="fundus photographs", mean=(0.4237, 0.2609, 0.1284),
        std=(0.2948, 0.2017, 0.1367),
    ),
    replace(
        _VISIONFM, name="visionfm_oct", folder="visionfm_oct", data="optical coherence tomography", mean=(0.2109,) * 3, std=(0.1760,) * 3
    ),
    _dino("dino_vit_s16", "dino_deitsmall16_pretrain", "ViT-S/16", 87, 74.5, 77.0),
    _dino("dino_vit_s8", "dino_deitsmall8_pretrain", "ViT-S/8", 87),
    _dino("dino_vit_b16", "dino_vitbase16_pretrain", "ViT-B/16", 343, 76.1, 78.2),
    _dino("dino_vit_b8", "dino_vitbase8_pretrain", "ViT-B/8", 343),
    _dinov2("dinov2_vit_s14", "timm/vit_small_patch14_dinov2.lvd142m", "ViT-S/14"),
    _dinov2("dinov2_vit_b14", "timm/vit_base_patch14_dinov2.lvd142m", "ViT-B/14"),
)
# fmt: on


def list_models(pattern: str = "*") -> list[str]:
    """Names in the catalogue that match a shell pattern such as "vit_*", in the catalogue's order."""
    return [entry.name for entry in CATALOG if fnmatch.fnmatchcase(entry.name, pattern)]


def info(name: str) -> Checkpoint:
    """The catalogue's entry of that name.

    Raises:
        UnknownModelError: there is none; the message lists the nearest names.
    """
    for entry in CATALOG:
        if entry.name == name:
            return entry
    near = difflib.get_close_matches(name.lower(), list_models(), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise UnknownModelError(f"No model is called {name!r}: {hint}`ibot models` lists all; a file or folder is given by its path.")
