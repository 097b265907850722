"""Community models open through the same door: generated repositories and files of their layouts, fetched over real HTTP by their names.

Layouts, keys, blocks, patches, image sizes and what the config.json files say are those of what is published. A token has 128 numbers and
two attention heads where theirs has 384 or 768 and six or twelve, so the catalogue is told so, as in `SMALL`.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

import ibot_hub
from ibot_hub import catalog
from tests.hub_server import HubServer

ROOT = Path(__file__).parents[1]
WIDTH, BLOCKS, HEADS = 128, 12, 2
SHAPE = {"embed_dim": WIDTH, "depth": BLOCKS, "num_heads": HEADS}
PATTERNS = 96
SMALL = {name: f"ViT-{WIDTH}x{BLOCKS}/{catalog.info(name).arch.partition('/')[2]}" for name in catalog.list_models()}
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

PHIKON = {
    "architectures": ["ViTModel"], "attention_probs_dropout_prob": 0.0, "encoder_stride": 16, "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0, "hidden_size": WIDTH, "image_size": 224, "initializer_range": 0.02, "intermediate_size": 4 * WIDTH,
    "layer_norm_eps": 1e-06, "model_type": "vit", "num_attention_heads": HEADS, "num_channels": 3, "num_hidden_layers": BLOCKS,
    "patch_size": 16, "qkv_bias": True, "torch_dtype": "float32",
}  # fmt: skip
PHIKON_IMAGES = {
    "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": MEAN, "image_std": STD,
    "image_processor_type": "ViTImageProcessor", "resample": 2, "rescale_factor": 1 / 255, "size": {"height": 224, "width": 224},
}  # fmt: skip
PHIKON_KEYS = {
    *("embeddings.cls_token", "embeddings.position_embeddings"),
    *(f"embeddings.patch_embeddings.projection.{part}" for part in ("weight", "bias")),
    *(
        f"encoder.layer.{block}.{layer}.{part}"
        for block in range(BLOCKS)
        for layer in (
            *(f"attention.attention.{name}" for name in ("query", "key", "value")),
            *("attention.output.dense", "intermediate.dense", "output.dense", "layernorm_before", "layernorm_after"),
        )
        for part in ("weight", "bias")
    ),
    *(f"{layer}.{part}" for layer in ("layernorm", "pooler.dense") for part in ("weight", "bias")),
}


def timm_config(architecture: str, tag: str, size: int, crop: float) -> dict[str, Any]:
    """What timm writes into a repository; `model_args` alone is ours."""
    return {
        "architecture": architecture, "num_classes": 0, "num_features": WIDTH, "global_pool": "token",
        "model_args": {"embed_dim": WIDTH, "num_heads": HEADS},
        "pretrained_cfg": {
            "tag": tag, "custom_load": False, "input_size": [3, size, size], "fixed_input_size": True, "interpolation": "bicubic",
            "crop_pct": crop, "crop_mode": "center", "mean": MEAN, "std": STD, "num_classes": 0, "pool_size": None,
            "first_conv": "patch_embed.proj", "classifier": "head",
        },
    }  # fmt: skip


TIMM = {  # repository -> config, and what timm's class takes to be that network
    "1aurent/vit_base_patch16_224.owkin_pancancer": (timm_config("vit_base_patch16_224", "owkin_pancancer", 224, 1), {}),
    "timm/vit_small_patch16_224.dino": (timm_config("vit_small_patch16_224", "dino", 224, 0.9), {}),
    "timm/vit_small_patch14_dinov2.lvd142m": (
        timm_config("vit_small_patch14_dinov2", "lvd142m", 518, 1.0),
        {"patch_size": 14, "img_size": 518, "init_values": 1e-5},
    ),
    "timm/vit_base_patch14_dinov2.lvd142m": (
        timm_config("vit_base_patch14_dinov2", "lvd142m", 518, 1.0),
        {"patch_size": 14, "img_size": 518, "init_values": 1e-5},
    ),
    "timm/vit_small_patch14_reg4_dinov2.lvd142m": (
        timm_config("vit_small_patch14_reg4_dinov2", "lvd142m", 518, 1.0),
        {"patch_size": 14, "img_size": 518, "init_values": 1e-5, "reg_tokens": 4, "no_embed_class": True},
    ),
}

THERE = """
import json, sys, torch
from dataclasses import asdict, replace
from safetensors.torch import save_file
from ibot_hub import catalog, load
from ibot_hub.errors import IBotError

out, names, small, early = json.loads(sys.argv[1])
entries = [replace(entry, arch=small[entry.name]) for entry in catalog.CATALOG]
entries.append(replace(entries[[entry.name for entry in entries].index("phikon")], name="phikon_early", revision=early))
catalog.CATALOG = tuple(entries)
said, tokens = {}, {}
for name in names:
    try:
        model = load(name)
        size = model.transform.size
        with torch.no_grad():
            answer = model(torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)))
        tokens[name] = torch.cat([answer.cls[:, None], answer.patches.flatten(1, 2)], dim=1)
        said[name] = {"model": repr(model), "transform": asdict(model.transform), "licence": model.card.licence}
    except IBotError as error:
        said[name] = {"error": str(error)}
save_file(tokens, out)
print(json.dumps(said))
"""


@torch.no_grad()
def spread(network: nn.Module, seed: int) -> nn.Module:
    """In place: weights so far apart that a wrong eps, head or scale shows in every token."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        if name.endswith("gamma"):  # of a trained network they are far from where they began
            parameter.add_(0.5)
    return network.eval()


def timm_vit(seed: int, **facts: Any) -> VisionTransformer:
    return spread(VisionTransformer(num_classes=0, **SHAPE, **facts), seed)  # type: ignore[return-value]


def noise(size: int) -> Tensor:
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def phikon(eps: float, folder: Path) -> tuple[Any, dict[str, bytes]]:
    """transformers' network of that eps, and the files of its repository: the pooler that nobody uses, and a pickle."""
    from transformers import ViTConfig, ViTModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    network: Any = spread(ViTModel(ViTConfig(**PHIKON | {"layer_norm_eps": eps}), add_pooling_layer=True), 0)
    for parameter in network.embeddings.parameters():
        parameter.mul_(1e-3)  # as small as the root of 1e-6, so that the eps is seen
    network.save_pretrained(folder)
    files = {"config.json": PHIKON | {"layer_norm_eps": eps}, "preprocessor_config.json": PHIKON_IMAGES}
    content = {name: json.dumps(facts).encode() for name, facts in files.items()}
    return network, content | {"model.safetensors": (folder / "model.safetensors").read_bytes(), "pytorch_model.bin": b"a pickle"}


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What every name answers, asked in one process of the hub on loopback; the references beside it."""
    folder = tmp_path_factory.mktemp("community")
    (early, early_files), (network, files) = phikon(1e-12, folder / "early"), phikon(1e-6, folder / "phikon")
    references: dict[str, Any] = {"owkin/phikon": network, "owkin/phikon@early": early}
    with HubServer() as hub:
        first = hub.repository("owkin/phikon", early_files).commits[0].oid
        hub.repositories["owkin/phikon"].add(files)
        for seed, (name, (config, facts)) in enumerate(TIMM.items()):
            references[name] = timm_vit(seed, **facts)
            weights = safetensors.torch.save(references[name].state_dict(), {"format": "pt"})
            hub.repository(name, {"config.json": json.dumps(config).encode(), "model.safetensors": weights, "pytorch_model.bin": b""})
        names = ["phikon", "phikon_early", f"hf-hub:owkin/phikon@{first}", "phikon_timm", "dinov2_vit_s14", "dinov2_vit_b14"]
        names += [f"hf-hub:{name}" for name in TIMM if "small" in name]
        arguments = json.dumps([str(folder / "tokens.safetensors"), names, SMALL, first])
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING", "IBOT_"))}
        own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf"), "IBOT_HUB_CACHE": str(folder / "ibot"), "NO_PROXY": "127.0.0.1"}
        done = subprocess.run(
            [sys.executable, "-c", THERE, arguments], cwd=ROOT, env=kept | own, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        asked = {path.rpartition("/")[2] for method, path, _ in hub.requests if method == "GET" and "/resolve/" in path}
    return {
        "said": json.loads(done.stdout), "tokens": safetensors.torch.load_file(folder / "tokens.safetensors"), "references": references,
        "early": first, "files": asked, "phikon": safetensors.torch.load_file(folder / "phikon" / "model.safetensors"),
    }  # fmt: skip


def apart(answered: Mapping[str, Any], name: str, reference: Tensor) -> float:
    tokens = answered["tokens"][name]
    assert tokens.shape == reference.shape
    return (tokens - reference).abs().max().item()  # type: ignore[no-any-return]


# Phikon, in the layouts of transformers and of timm


@torch.no_grad()
def test_phikon(answered: dict[str, Any]) -> None:
    assert answered["phikon"].keys() == PHIKON_KEYS  # as published: the test would say nothing of Phikon else
    assert apart(answered, "phikon", answered["references"]["owkin/phikon"](noise(224)).last_hidden_state) <= 1e-5
    said = answered["said"]["phikon"]
    assert said["model"] == "Model(phikon: ViT-128x12/16, teacher network, without head, float32 on cpu)"
    assert said["transform"] == {"size": 224, "resize": "squash", "patch": 16, "mean": MEAN, "std": STD}
    assert said["licence"] == "Owkin non-commercial"
    assert answered["files"] == {"config.json", "preprocessor_config.json", "model.safetensors"}  # of no repository a pickle


@torch.no_grad()
def test_an_early_phikon_is_refused_by_its_name_and_opens_as_what_it_says(answered: dict[str, Any]) -> None:
    said = answered["said"]["phikon_early"]["error"]
    assert "is not phikon_early: its config.json says an eps of 1e-12, the network was trained with 1e-06; take a newer revision" in said
    pinned = f"hf-hub:owkin/phikon@{answered['early']}"
    assert apart(answered, pinned, answered["references"]["owkin/phikon@early"](noise(224)).last_hidden_state) <= 1e-5
    assert (answered["tokens"][pinned] - answered["tokens"]["phikon"]).abs().max() > 0.1  # so the eps is seen
    assert "network not stated" in answered["said"][pinned]["model"]


@torch.no_grad()
def test_the_timm_twin_of_phikon(answered: dict[str, Any]) -> None:
    reference = answered["references"]["1aurent/vit_base_patch16_224.owkin_pancancer"].forward_features(noise(224))
    assert apart(answered, "phikon_timm", reference) <= 1e-5
    said = answered["said"]["phikon_timm"]
    assert said["model"] == "Model(phikon_timm: ViT-128x12/16, teacher network, without head, float32 on cpu)"
    assert said["transform"] == {"size": 224, "resize": "squash", "patch": 16, "mean": MEAN, "std": STD}


# DINO and DINOv2 through timm


@torch.no_grad()
def test_dino_of_timm(answered: dict[str, Any]) -> None:
    repository = "timm/vit_small_patch16_224.dino"
    assert apart(answered, f"hf-hub:{repository}", answered["references"][repository].forward_features(noise(224))) <= 1e-5


@pytest.mark.parametrize("size", ["small", "base"])
@torch.no_grad()
def test_dinov2_of_timm(answered: dict[str, Any], size: str) -> None:
    repository, name = f"timm/vit_{size}_patch14_dinov2.lvd142m", f"dinov2_vit_{size[0]}14"
    reference = answered["references"][repository].forward_features(noise(518))
    assert reference.shape == (1, 1 + 37 * 37, WIDTH)
    for asked in (name, f"hf-hub:{repository}") if size == "small" else (name,):
        assert apart(answered, asked, reference) <= 1e-5
        said = answered["said"][asked]
        assert f"{asked}: ViT-128x12/14, network not stated" in said["model"]
        assert said["transform"] == {"size": 518, "resize": "crop", "patch": 14, "mean": MEAN, "std": STD}


def test_registers_are_refused_in_one_sentence(answered: dict[str, Any]) -> None:
    said = answered["said"]["hf-hub:timm/vit_small_patch14_reg4_dinov2.lvd142m"]["error"]
    assert said.endswith("is a ViT with register tokens, which ibot-hub does not compute; take the one without them.")


# files: DINO's own, and VisionFM's


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that a plain file server on loopback offers in place of the hosts."""
    small = [replace(entry, arch=SMALL[entry.name], patterns=entry.patterns and PATTERNS) for entry in catalog.CATALOG]
    monkeypatch.setattr(catalog, "CATALOG", tuple(small))

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        monkeypatch.setenv("IBOT_HUB_MIRROR", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("IBOT_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield tmp_path
        server.shutdown()
        thread.join()


def put(content: object, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    torch.save(content, path)


def dino_head(seed: int) -> dict[str, Tensor]:
    layers = {"mlp.0": (64, WIDTH), "mlp.2": (64, 64), "mlp.4": (32, 64)}
    generator = torch.Generator().manual_seed(seed)
    tensors = {f"{name}.weight": torch.randn(shape, generator=generator) / 8 for name, shape in layers.items()}
    tensors |= {f"{name}.bias": torch.randn(shape[0], generator=generator) / 8 for name, shape in layers.items()}
    return tensors | {"last_layer.weight_g": torch.ones(PATTERNS, 1), "last_layer.weight_v": torch.randn(PATTERNS, 32, generator=generator)}


def logits(head: Mapping[str, Tensor], tokens: Tensor) -> Tensor:
    """Of DINO's head, [B, D] -> [B, K]."""
    for layer in ("mlp.0", "mlp.2", "mlp.4"):
        tokens = F.linear(tokens, head[f"{layer}.weight"], head[f"{layer}.bias"])
        tokens = F.gelu(tokens) if layer != "mlp.4" else tokens
    return F.normalize(tokens, dim=1) @ F.normalize(head["last_layer.weight_v"], dim=1).T * head["last_layer.weight_g"].T


def wrapped(network: nn.Module, head: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    state = {f"{prefix}backbone.{name}": tensor for name, tensor in network.state_dict().items()}
    return state | {f"{prefix}head.{name}": tensor for name, tensor in head.items()}


@torch.no_grad()
def test_dino_by_its_own_files(mirror: Path) -> None:
    name, stem = "dino_vit_s16", "dino_deitsmall16_pretrain"
    teacher, student = timm_vit(0), timm_vit(1)
    put(teacher.state_dict(), mirror / stem / f"{stem}.pth")
    full = {
        "student": wrapped(student, dino_head(1), "module."), "teacher": wrapped(teacher, dino_head(0)), "epoch": 100,
        "optimizer": {"state": {}, "param_groups": []}, "dino_loss": {"center": torch.zeros(1, PATTERNS)},
    }  # fmt: skip
    put(full, mirror / stem / f"{stem}_full_checkpoint.pth")
    reference = teacher.forward_features(noise(224))
    flat = ibot_hub.load(name)
    assert (flat.card.network, flat.head, flat.transform.resize) == ("teacher", None, "crop")
    with_head = ibot_hub.load(name, head=True)
    for model in (flat, with_head):
        tokens = model(noise(224))
        assert (tokens.cls - reference[:, 0]).abs().max() <= 1e-5
        assert (tokens.patches.flatten(1, 2) - reference[:, 1:]).abs().max() <= 1e-5
    assert with_head.head is not None
    assert (with_head.head(tokens).cls - logits(dino_head(0), reference[:, 0])).abs().max() <= 1e-5
    other = ibot_hub.load(name, network="student")
    assert (other(noise(224)).cls - student.forward_features(noise(224))[:, 0]).abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [("visionfm_fundus", (0.4237, 0.2609, 0.1284), (0.2948, 0.2017, 0.1367)), ("visionfm_oct", (0.2109,) * 3, (0.1760,) * 3)],
)
@torch.no_grad()
def test_visionfm(mirror: Path, photos: Path, name: str, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    network, head = timm_vit(0), dino_head(0)
    head |= {layer.replace("last_layer", "last_layer2"): tensor for layer, tensor in head.items() if "last_layer" in layer}  # shared
    put({"teacher": wrapped(network, head), "epoch": 400}, mirror / name / "checkpoint.pth")
    model = ibot_hub.load(name)
    assert repr(model) == f"Model({name}: ViT-128x12/16, teacher network, unverified, with head, float32 on cpu)"
    photo = photos / "cat_chelsea.jpg"
    with Image.open(photo) as image:
        assert image.width != image.height
        prepared = model.transform(image)[None]
        pixels = torch.from_numpy(np.array(image.resize((224, 224), Image.Resampling.BICUBIC))).permute(2, 0, 1)
    expected = (pixels / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert ((prepared[0] - expected).abs() * torch.tensor(std).view(3, 1, 1) * 255).max() < 2.1  # grey levels: two bicubics
    reference = network.forward_features(prepared)
    tokens = model(photo)
    assert (tokens.cls - reference[:, 0]).abs().max() <= 1e-5
    assert (tokens.patches.flatten(1, 2) - reference[:, 1:]).abs().max() <= 1e-5
    assert model.head is not None
    assert (model.head(tokens).patches.flatten(1, 2)[0] - logits(head, reference[0, 1:])).abs().max() <= 1e-5
