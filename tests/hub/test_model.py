"""One answer for every kind of images, gradients only through tensors, and a model that timm and torch can use as their own."""

import io
import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from ibot_hub.attention import cls_attention
from ibot_hub.devices import cpu_multiplies_bfloat16, placed
from ibot_hub.errors import ImageError, UsageError, WeightsError
from ibot_hub.images import ImageTransform, decode
from ibot_hub.loading import load
from ibot_hub.model import Card, Model
from ibot_hub.tokens import Tokens
from ibot_hub.vit import ViT


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other at every small tensor cost four times the work, where others use the machine too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def model(golden: Path) -> Model:
    return load(golden / "vit_micro_checkpoint.pth")


@pytest.fixture(scope="module")
def swin(golden: Path) -> Model:
    return load(golden / "swin_micro_w7_checkpoint.pth")


@pytest.fixture
def photo(photos: Path) -> Path:
    return photos / "cat_chelsea.jpg"


def some_images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def assert_equal(ours: Tokens, theirs: Tokens) -> None:
    assert torch.equal(ours.cls, theirs.cls)
    assert torch.equal(ours.patches, theirs.patches)


# what it takes, and what it answers


def test_every_kind_of_images_gives_the_same_tokens(model: Model, photo: Path) -> None:
    image = decode(photo)
    expected = model(model.transform(image)[None])
    assert (expected.cls.shape, expected.patches.shape) == ((1, 128), (1, 14, 14, 128))
    with photo.open("rb") as file:
        opened = Image.open(io.BytesIO(file.read()))  # as the caller has it: not decoded yet
    for images in (photo, str(photo), image, opened, np.asarray(image), [photo], (image,)):
        assert_equal(model(images), expected)


def test_a_list_may_mix_them_and_keeps_its_order(model: Model, photos: Path) -> None:
    paths = [photos / "coffee.jpg", photos / "cat_chelsea.jpg", photos / "graf1.jpg"]
    tokens = model([paths[0], decode(paths[1]), np.asarray(decode(paths[2]))])
    assert (tokens.cls.shape, tokens.patches.shape) == ((3, 128), (3, 14, 14, 128))
    for index, path in enumerate(paths):
        alone = model(path)
        assert torch.allclose(tokens.cls[index], alone.cls[0], atol=1e-5)
        assert torch.allclose(tokens.patches[index], alone.patches[0], atol=1e-5)
    assert not torch.allclose(tokens.cls[0], tokens.cls[1], atol=1e-3)


def test_patches_lie_by_row_and_column(model: Model) -> None:
    images = some_images(1, 3, 48, 80)
    changed = images.clone()
    changed[:, :, 16:32, 64:80] += 3  # row 1, column 4
    embedded = [model.backbone.patch_embed.proj(x).permute(0, 2, 3, 1) for x in (images, changed)]
    assert (embedded[0] != embedded[1]).any(-1).nonzero().tolist() == [[0, 1, 4]]
    difference = (model(images).patches - model(changed).patches).norm(dim=-1)[0]
    assert difference.shape == (3, 5)
    assert divmod(difference.argmax().item(), 5) == (1, 4)


def test_a_swin_answers_in_the_same_shape(swin: Model, photo: Path) -> None:
    tokens = swin(photo)
    assert (tokens.cls.shape, tokens.patches.shape) == ((1, 128), (1, 7, 7, 128))
    assert torch.allclose(tokens.cls, tokens.patches.mean((1, 2)), atol=1e-6)
    assert [layer.patches.shape[1:] for layer in swin.last_layers(photo, 3)] == [(14, 14, 64), (7, 7, 128), (7, 7, 128)]
    with pytest.raises(UsageError, match=r"no \[CLS\] token"):
        swin.attention(photo)


# how images are prepared


def test_another_transform_for_one_call(model: Model, photo: Path) -> None:
    image = decode(photo)
    assert image.size == (451, 300)
    larger = replace(model.transform, size=448)
    wide = replace(model.transform, size=160, resize="keep")
    assert model(photo, transform=larger).patches.shape == (1, 28, 28, 128)
    tokens = model(photo, transform=wide)
    assert tokens.patches.shape == (1, 10, 15, 128)
    assert_equal(tokens, model(wide(image)[None]))
    assert model.attention(photo, transform=wide).shape == (1, 2, 10, 15)
    assert model.last_layers(photo, 1, transform=wide)[0].patches.shape == (1, 10, 15, 128)
    assert model.pattern_ids(photo, transform=wide).ids.shape == (1, 10, 15)
    assert model.transform.size == 224


def test_images_of_several_shapes_do_not_make_a_batch(model: Model, photo: Path) -> None:
    keep = replace(model.transform, resize="keep")
    turned = decode(photo).transpose(Image.Transpose.ROTATE_90)
    with pytest.raises(
        UsageError, match="must come out in one shape, not 336 x 224 and 224 x 336; give them one by one, or crop or squash"
    ):
        model([photo, turned], transform=keep)
    assert model([photo, turned]).cls.shape == (2, 128)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), r"this one is uint8 \(1, 3, 32, 32\)"),
        (torch.zeros(3, 32, 32), r"this one is float32 \(3, 32, 32\)"),
        (torch.zeros(1, 1, 32, 32), r"this one is float32 \(1, 1, 32, 32\)"),
        (torch.zeros(1, 32, 32, 3), r"must be normalised floats \[B, 3, height, width\]"),
        (torch.zeros(1, 3, 15, 32), "Images of 15 x 32 pixels hold no patch of 16"),
        (torch.zeros(1, 3, 32, 0), "Images of 32 x 0 pixels hold no patch of 16"),
        ([], "list of images is empty"),
        ([torch.zeros(3, 32, 32)], "this is 'Tensor'"),
        (np.zeros((32, 32, 3), np.float32), "this is a float32 array"),
        (None, "this is 'NoneType'"),
    ],
)
def test_what_is_no_image_is_refused(model: Model, images: Any, said: str) -> None:
    for call in (model, partial(model.last_layers, count=1), model.attention, model.pattern_ids):
        with pytest.raises(UsageError, match=said):
            call(images)


def test_a_tensor_is_not_prepared_again(model: Model) -> None:
    with pytest.raises(UsageError, match="A tensor is taken as it is; `transform` prepares images"):
        model(some_images(1, 3, 32, 32), transform=ImageTransform())


def test_a_broken_image_is_named(model: Model, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "odd.jpg").write_bytes(photo.read_bytes()[:500])
    with pytest.raises(ImageError, match=r"odd\.jpg"):
        model([photo, tmp_path / "odd.jpg"])


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # of fork, from Python 3.12 on
def test_the_transform_goes_into_a_loader_of_torch(model: Model, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").symlink_to(photos)
    dataset = ImageFolder(str(tmp_path), transform=model.transform)
    loader = DataLoader(dataset, batch_size=3, num_workers=1, multiprocessing_context="fork" if os.name == "posix" else None)
    images, _ = next(iter(loader))
    expected = model([path for path, _ in dataset.samples[:3]])
    assert torch.allclose(model(images).cls, expected.cls, atol=1e-6)


# layers, attention, patterns


def test_layers_come_oldest_first(model: Model) -> None:
    images = some_images(2, 3, 32, 48)
    with torch.no_grad():
        before, last = model.last_layers(images, count=2)
        assert_equal(last, model(images))
        tokens, _, _ = model.backbone.embed(images)
        assert torch.equal(before.cls, model.backbone.norm(model.backbone.blocks[0](tokens))[:, 0])
        assert len(model.last_layers(images, 1)) == 1
    assert (model.depth, model.widths) == (2, (128, 128))


@pytest.mark.parametrize("count", [0, -1, 3])
def test_layers_that_are_not_there(model: Model, count: int) -> None:
    with pytest.raises(UsageError, match=f"{count} layers were asked for; this model has 2 blocks"):
        model.last_layers(some_images(1, 3, 32, 32), count)


def test_four_layers_are_more_than_this_model_has(model: Model) -> None:
    with pytest.raises(UsageError, match="4 layers were asked for"):
        model.last_layers(some_images(1, 3, 32, 32))


def test_attention_of_one_layer(model: Model, photo: Path) -> None:
    images = some_images(2, 3, 32, 48)
    for layer in (-1, 0):
        attention = model.attention(images, layer)
        assert attention.shape == (2, 2, 2, 3)
        assert torch.equal(attention, cls_attention(model.backbone, images, (layer,))[0])
    assert not torch.equal(model.attention(images), model.attention(images, 0))
    assert torch.equal(model.attention(photo), model.attention(model.transform(decode(photo))[None]))
    with pytest.raises(UsageError, match="Layer 2 does not exist"):
        model.attention(images, 2)


@pytest.mark.parametrize("which", ["model", "swin"])
def test_patterns_are_the_largest_logits(which: str, request: pytest.FixtureRequest) -> None:
    model: Model = request.getfixturevalue(which)
    images = some_images(3, 3, 96, 128)
    assert model.head is not None
    with torch.no_grad():
        logits = model.head(model(images)).patches  # [B, H, W, K]
    patterns = model.pattern_ids(images)
    assert patterns.ids.shape == patterns.confidences.shape == logits.shape[:3]
    assert torch.equal(patterns.ids, logits.argmax(-1))
    assert torch.allclose(patterns.confidences, logits.amax(-1), atol=1e-6)
    assert (patterns.ids.dtype, patterns.confidences.dtype) == (torch.int64, torch.float32)
    assert not patterns.confidences.requires_grad
    assert len(patterns.ids.unique()) > 1


def test_patterns_need_the_head(golden: Path) -> None:
    model = load(golden / "vit_micro_checkpoint.pth", head=False)
    with pytest.raises(WeightsError, match=r"vit_micro_checkpoint\.pth was loaded without its projection head; load it with head=True"):
        model.pattern_ids(some_images(1, 3, 32, 32))


# gradients


def test_gradients_flow_through_tensors_to_weights_and_pixels(model: Model) -> None:
    images = some_images(2, 3, 32, 48).requires_grad_()
    for answer in (model(images).patches, model.last_layers(images, 1)[0].patches, model.attention(images)):
        model.zero_grad()
        images.grad = None
        answer.square().sum().backward()
        assert images.grad is not None
        assert images.grad.abs().sum() > 0
        weight = model.backbone.blocks[0].attn.qkv.weight.grad
        assert weight is not None
        assert weight.abs().sum() > 0


def test_images_are_run_without(model: Model, photo: Path) -> None:
    tokens = model(photo)
    assert not any(
        answer.requires_grad for answer in (tokens.cls, tokens.patches, model.attention(photo), model.last_layers(photo, 1)[0].cls)
    )
    with torch.no_grad():
        assert not model(some_images(1, 3, 32, 32)).cls.requires_grad
    assert torch.is_grad_enabled()


def test_it_can_be_fine_tuned(model: Model) -> None:
    before = {name: parameter.detach().clone() for name, parameter in model.backbone.named_parameters()}
    classifier = nn.Linear(128, 2)
    optimizer = torch.optim.AdamW([*model.backbone.parameters(), *classifier.parameters()], lr=1e-3)
    images, labels = some_images(8, 3, 32, 32), torch.arange(8) % 2
    losses = []
    model.train()
    for _ in range(8):
        loss = F.cross_entropy(classifier(model(images).cls), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(not torch.equal(parameter, before[name]) for name, parameter in model.backbone.named_parameters())


# as others use it


@torch.no_grad()
def test_the_state_dict_is_timm_s(model: Model) -> None:
    twin = VisionTransformer(img_size=224, patch_size=16, embed_dim=128, depth=2, num_heads=2, num_classes=0).eval()
    twin.load_state_dict(model.backbone.state_dict(), strict=True)
    images = some_images(2, 3, 224, 224)
    tokens = model(images)
    theirs = twin.forward_features(images)
    assert torch.equal(tokens.cls, theirs[:, 0])
    assert torch.equal(tokens.patches.flatten(1, 2), theirs[:, 1:])


def test_a_model_is_saved_and_loaded_as_any_module(model: Model, golden: Path) -> None:
    assert {name.partition(".")[0] for name in model.state_dict()} == {"backbone", "head"}
    student = load(golden / "vit_micro_checkpoint.pth", "student")
    assert {name.partition(".")[0] for name in student.state_dict()} == {"backbone", "head", "mask_token"}
    student.mask_token = None
    student.load_state_dict(model.state_dict(), strict=True)
    images = some_images(1, 3, 32, 32)
    assert_equal(student(images), model(images))


def test_device_and_dtype_follow_the_weights(model: Model, photo: Path) -> None:
    assert (model.device, model.dtype) == (torch.device("cpu"), torch.float32)
    model.to(torch.float64)
    assert (model.dtype, model(photo).cls.dtype, model(some_images(1, 3, 32, 32)).cls.dtype) == (torch.float64,) * 3
    model.to("meta")
    assert model.device.type == "meta"
    assert model(some_images(1, 3, 32, 32)).cls.device.type == "meta"


def trained_like(embed_dim: int, depth: int) -> Model:
    """A ViT whose weights have the scale that training gives: attention that selects, tokens that differ."""
    torch.manual_seed(0)
    vit = ViT(img_size=224, patch_size=16, embed_dim=embed_dim, depth=depth, num_heads=embed_dim // 64)
    with torch.no_grad():
        nn.init.normal_(vit.pos_embed, std=0.5)
        nn.init.normal_(vit.cls_token, std=0.5)
        for name, parameter in vit.named_parameters():
            if name.endswith("weight") and parameter.ndim == 2:
                nn.init.normal_(parameter, std=1.5 * parameter.shape[1] ** -0.5)
            elif name.endswith("bias"):
                nn.init.normal_(parameter, std=0.1)
    return Model(vit, None, None, ImageTransform(), Card("made", "ViT", None)).eval()


@pytest.mark.parametrize(
    ("embed_dim", "depth"),
    [(128, 4), pytest.param(384, 12, marks=pytest.mark.skipif(not cpu_multiplies_bfloat16(), reason="takes minutes on this CPU"))],
)
def test_bfloat16_agrees_with_float32_on_a_photograph(embed_dim: int, depth: int, photo: Path) -> None:
    """Also as the extraction computes it, its weights reordered."""
    model = trained_like(embed_dim, depth)
    precise = model(photo)
    assert F.cosine_similarity(precise.patches[0, 3, 3], precise.patches[0, 10, 10], dim=0) < 0.96  # so that agreement says something
    ordered = placed(model.backbone, torch.device("cpu"), torch.bfloat16)
    model.to(torch.bfloat16)
    for rough in (model(photo), ordered(model.transform(decode(photo))[None].bfloat16())):
        assert rough.cls.dtype == rough.patches.dtype == torch.bfloat16
        assert F.cosine_similarity(rough.cls.float(), precise.cls).item() >= 0.999
        assert F.cosine_similarity(rough.patches.float(), precise.patches, dim=-1).mean().item() >= 0.998
