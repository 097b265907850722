"""A recipe is a value whose defaults are the paper's ViT-S/16."""

import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace

import pytest

from ibot_training.recipe import Crops, Network, Optimiser, Recipe, Run, differences

DEFAULT = Recipe(name="default")


def test_defaults_are_the_published_command() -> None:
    network, crops, masks, loss, optimiser = DEFAULT.network, DEFAULT.crops, DEFAULT.masks, DEFAULT.loss, DEFAULT.optimiser
    assert (network.arch, network.patch_size, network.embed_dim, network.depths, network.heads) == ("vit", 16, 384, (12,), (6,))
    assert (optimiser.epochs, optimiser.batch_size, optimiser.lr, optimiser.warmup_epochs) == (800, 1024, 5e-4, 10)
    assert (optimiser.weight_decay, optimiser.weight_decay_end, optimiser.clip, optimiser.clip_by) == (0.04, 0.4, 3.0, "tensor")
    assert (optimiser.momentum, optimiser.momentum_end) == (0.996, 1.0)
    assert (loss.warmup_temperature, loss.cls_temperature, loss.patch_temperature, loss.warmup_epochs) == (0.04, 0.07, 0.07, 30)
    assert (loss.student_temperature, loss.centre_momentum, loss.patch_centre_momentum) == (0.1, 0.9, 0.9)
    assert (DEFAULT.head.sharing, DEFAULT.head.patterns, DEFAULT.head.learn_lengths) == ("shared", 8192, True)
    assert (crops.global_count, crops.global_size, crops.global_scale) == (2, 224, (0.25, 1.0))
    assert (crops.local_count, crops.local_size, crops.local_scale) == (10, 96, (0.05, 0.25))
    assert (masks.shape, masks.ratios, masks.spreads, masks.crops, masks.start_epoch) == ("block", (0.0, 0.3), (0.0, 0.2), "globals", 0)


def test_every_number_says_what_it_means() -> None:
    sections = [getattr(DEFAULT, field.name) for field in fields(Recipe) if is_dataclass(field.default)]
    numbers = [number for section in sections for number in fields(section)]
    assert len(numbers) > 60
    assert all(number.metadata["meaning"] and number.default is not None for number in numbers)


def test_recipes_are_equal_by_value_and_never_change() -> None:
    assert Recipe(name="default") == DEFAULT
    assert replace(DEFAULT, crops=Crops(local_count=9)) != DEFAULT
    with pytest.raises(FrozenInstanceError):
        DEFAULT.optimiser.epochs = 1  # type: ignore[misc]


def test_what_changes_nothing_that_is_learned_is_no_difference() -> None:
    run = Run(precision="bfloat16", seed=3)
    one = replace(DEFAULT, run=run)
    other = replace(one, name="other", notes="n", run=replace(run, workers=2, log_every=7, save_every=9.0, keep=5, parallel="fsdp"))
    assert differences(one, other) == []
    assert differences(one, replace(one, optimiser=Optimiser(lr=0.1), run=replace(run, precision="float32", resident=8))) == [
        ("optimiser.lr", 5e-4, 0.1),
        ("run.precision", "bfloat16", "float32"),
        ("run.resident", 0, 8),
    ]


def test_what_a_mask_hides_as_one() -> None:
    assert Network().cell == 16
    assert Network(patch_size=8).cell == 8
    assert Network(arch="swin", patch_size=4, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24)).cell == 32


def test_effective_epochs_are_those_of_appendix_b() -> None:
    assert DEFAULT.effective_epochs / 800 == pytest.approx(3.84, abs=0.005)
    assert replace(DEFAULT, crops=Crops(local_count=0)).effective_epochs == 1600
    swav = replace(DEFAULT, crops=Crops(local_count=6), optimiser=Optimiser(epochs=1))
    assert swav.effective_epochs == pytest.approx(3, abs=0.15)


def test_recipes_are_read_without_torch() -> None:
    code = "import sys, ibot_training.recipe_file as r; r.list_recipes(); print({'torch', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
