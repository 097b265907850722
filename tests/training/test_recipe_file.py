"""Recipes are found by name, differ from one another as they say, and are read strictly."""

import tomllib
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest

from ibot_hub import catalog
from ibot_hub.errors import UsageError
from ibot_training.recipe import Recipe
from ibot_training.recipe_file import KEYS, list_recipes, load_recipe, to_toml

NAMES = {
    "vit_s16", "vit_s16_k1000", "vit_s16_two_crops", "vit_s16_ablation", "vit_b16", "vit_b16_rand", "vit_b16_two_crops", "vit_b16_in22k",
    "vit_l16", "vit_l16_rand", "vit_l16_in22k", "swin_t7", "swin_t14", "dino", "mim_only", "tiny", "tiny_cpu", "smoke",
}  # fmt: skip


def number(recipe: Recipe, key: str) -> object:
    section, name = key.split(".")
    return getattr(getattr(recipe, section), name)


def written(folder: Path, text: str) -> str:
    """The path of a recipe with that text."""
    file = folder / "mine.toml"
    file.write_text(text, encoding="utf-8")
    return str(file)


def failure(name_or_path: str, *settings: str) -> str:
    with pytest.raises(UsageError) as caught:
        load_recipe(name_or_path, settings)
    return str(caught.value)


def test_recipes_are_data_of_the_package() -> None:
    files = {file.name for file in resources.files("ibot_training").joinpath("recipes").iterdir()}
    assert files == {f"{name}.toml" for name in NAMES}
    assert [recipe.name for recipe in list_recipes()] == sorted(NAMES)


def test_every_recipe_says_what_it_is_and_holds_differences_alone() -> None:
    for recipe in list_recipes():
        text = resources.files("ibot_training").joinpath("recipes", f"{recipe.name}.toml").read_text(encoding="utf-8")
        document = tomllib.loads(text)
        base = load_recipe(document["base"]) if "base" in document else Recipe(name="")
        said = {f"{section}.{name}" for section, values in document.items() if isinstance(values, dict) for name in values}
        # a number is said again only where the base had to infer it
        assert {key for key in said if number(recipe, key) == number(base, key)} <= set(base.inferred), recipe.name
        assert recipe.summary, recipe.name
        assert not set(document.get("inferred", ())) & (set(base.inferred) - said), recipe.name


@pytest.mark.parametrize(
    ("name", "width", "depths", "epochs", "batch"),
    [
        ("vit_s16", 384, (12,), 800, 1024),
        ("vit_s16_k1000", 384, (12,), 800, 1024),
        ("vit_s16_two_crops", 384, (12,), 800, 1024),
        ("vit_s16_ablation", 384, (12,), 300, 1024),
        ("dino", 384, (12,), 300, 1024),
        ("mim_only", 384, (12,), 300, 1024),
        ("vit_b16", 768, (12,), 400, 1024),
        ("vit_b16_rand", 768, (12,), 400, 1024),
        ("vit_b16_two_crops", 768, (12,), 400, 1024),
        ("vit_b16_in22k", 768, (12,), 80, 1024),
        ("vit_l16", 1024, (24,), 250, 1024),
        ("vit_l16_rand", 1024, (24,), 250, 1024),
        ("vit_l16_in22k", 1024, (24,), 50, 1024),
        ("swin_t7", 96, (2, 2, 6, 2), 300, 1024),
        ("swin_t14", 96, (2, 2, 6, 2), 300, 1040),
    ],
)
def test_published_numbers(name: str, width: int, depths: tuple[int, ...], epochs: int, batch: int) -> None:
    recipe = load_recipe(name)
    assert (recipe.network.embed_dim, recipe.network.depths) == (width, depths)
    assert (recipe.optimiser.epochs, recipe.optimiser.batch_size) == (epochs, batch)
    assert (recipe.optimiser.lr, recipe.optimiser.warmup_epochs) == (5e-4, 10)
    assert recipe.crops.local_count == (0 if "two_crops" in name or name in ("vit_s16_ablation", "dino", "mim_only") else 10)
    assert recipe.masks.start_epoch == (50 if "swin" in name else 0)
    assert recipe.network.window_size == (14 if name == "swin_t14" else 7)
    assert recipe.optimiser.freeze_last_layer == (3 if name.startswith(("vit_b16", "vit_l16")) else 1)


@pytest.mark.parametrize(
    ("name", "shape", "ratios", "spreads", "weights"),
    [
        ("vit_s16", "block", (0.0, 0.3), (0.0, 0.2), (1.0, 1.0)),
        ("vit_b16_rand", "random", (0.0, 0.7), (0.0, 0.05), (1.0, 1.0)),
        ("vit_l16_rand", "random", (0.0, 0.7), (0.0, 0.05), (1.0, 1.0)),
        ("vit_s16_two_crops", "block", (0.3,), (0.2,), (1.0, 1.0)),
        ("vit_b16_two_crops", "block", (0.3,), (0.2,), (1.0, 1.0)),
        ("vit_s16_ablation", "block", (0.3,), (0.0,), (1.0, 1.0)),
        ("dino", "block", (0.0,), (0.0,), (1.0, 0.0)),
        ("mim_only", "block", (0.3,), (0.0,), (0.0, 1.0)),
    ],
)
def test_masks_and_losses(
    name: str, shape: str, ratios: tuple[float, ...], spreads: tuple[float, ...], weights: tuple[float, float]
) -> None:
    recipe = load_recipe(name)
    assert (recipe.masks.shape, recipe.masks.ratios, recipe.masks.spreads) == (shape, ratios, spreads)
    assert (recipe.loss.cls_weight, recipe.loss.patch_weight) == weights


def test_the_catalogue_and_the_recipes_agree() -> None:
    published = [entry for entry in catalog.CATALOG if entry.host == catalog.OFFICIAL_HOST]
    assert len(published) == 10
    for entry in published:
        recipe = load_recipe(entry.name)
        assert recipe.head.patterns == entry.patterns
        assert recipe.optimiser.epochs == (entry.epochs or recipe.optimiser.epochs)
        assert ("optimiser.epochs" in recipe.inferred) == (entry.epochs is None), entry.name
        assert recipe.masks.shape == (entry.masks or recipe.masks.shape)
        assert ("masks.shape" in recipe.inferred) == (entry.masks is None), entry.name
        assert {"optimiser.min_lr", "optimiser.freeze_last_layer"} & set(recipe.inferred), entry.name


@pytest.mark.parametrize("name", sorted(NAMES))
def test_what_is_written_is_read_back_equal(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    text = to_toml(recipe)
    assert load_recipe(written(tmp_path, text)) == recipe
    document = tomllib.loads(text)
    assert {f"{section}.{key}" for section in document for key in document[section] if isinstance(document[section], dict)} == set(KEYS)


def test_odd_words_and_numbers_are_read_back_equal(tmp_path: Path) -> None:
    settings = ["optimiser.lr=1e-07", "optimiser.min_lr=0", "optimiser.clip=1e17", "run.seed=9223372036854775807", "run.compile=true"]
    recipe = replace(load_recipe("smoke", settings), name='a"b\\c', summary="lines\nand\ttabs\x7f\x01 \U0001f600 é")
    assert load_recipe(written(tmp_path, to_toml(recipe))) == recipe


def test_a_written_recipe_explains_itself() -> None:
    lines = to_toml(load_recipe("vit_b16")).splitlines()
    assert lines[0] == "# 1535 effective epochs (Appendix B)"
    assert any(line.startswith("embed_dim = 768") and line.endswith("in its first stage (default 384)") for line in lines)
    assert any(line.startswith("drop_path = 0.1") and line.endswith("from 0 (inferred)") for line in lines)
    assert any(line.startswith("image_size = 224") and line.endswith("made for (ViT)") for line in lines)
    frozen = next(line for line in to_toml(load_recipe("vit_l16")).splitlines() if line.startswith("freeze_last_layer"))
    assert frozen.endswith("(default 1; inferred)")


def test_a_file_differs_from_its_base(tmp_path: Path) -> None:
    base = load_recipe("vit_l16")
    assert {"optimiser.lr", "optimiser.clip"} <= set(base.inferred)
    file = written(tmp_path, '\ufeffbase = "vit_l16"\ninferred = ["run.seed"]\n[optimiser]\nclip = 1\n[run]\nseed = 3\n')
    recipe = load_recipe(file)
    assert (recipe.name, recipe.summary, recipe.notes) == ("mine", "", "")
    assert recipe.inferred == (*(key for key in base.inferred if key != "optimiser.clip"), "run.seed")
    assert recipe.optimiser == replace(base.optimiser, clip=1.0)
    assert type(recipe.optimiser.clip) is float
    assert (recipe.network, recipe.run.seed) == (base.network, 3)
    assert load_recipe(written(tmp_path, 'name = "other"\nsummary = "s"\nnotes = "n"')) == Recipe(name="other", summary="s", notes="n")


def test_settings_are_lines_of_toml(tmp_path: Path) -> None:
    settings = [
        "optimiser.epochs=5", "masks.crops=one global", 'masks.shape="random"', " network.drop_path = 0 # none", "masks.ratios=[0.5]",
        "masks.spreads=[0]", "loss.centring=false", "crops.local_scale = [0.05, 0.4]", "optimiser.epochs=7", "run.precision=bfloat16",
    ]  # fmt: skip
    recipe = load_recipe("vit_b16", settings)
    assert (recipe.optimiser.epochs, recipe.masks.crops, recipe.masks.shape, recipe.network.drop_path) == (7, "one global", "random", 0.0)
    assert (recipe.masks.ratios, recipe.masks.spreads, recipe.crops.local_scale) == ((0.5,), (0.0,), (0.05, 0.4))
    assert (recipe.loss.centring, recipe.run.precision) == (False, "bfloat16")
    assert not {"network.drop_path", "crops.local_scale"} & set(recipe.inferred)
    assert "crops.global_scale" in recipe.inferred
    assert load_recipe(written(tmp_path, to_toml(recipe))) == recipe


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[optimizer]\nlr = 1", "a recipe has no optimizer; did you mean optimiser?"),
        ("batch_size = 64", "a recipe has no batch_size; did you mean optimiser.batch_size?"),
        ("[network]\ndepth = [12]", "a recipe has no network.depth; did you mean network.depths?"),
        ("[masks]\nwarmup_epochs = 3", "a recipe has no masks.warmup_epochs; did you mean loss.warmup_epochs or optimiser.warmup_epochs?"),
        ("[loss]\nzzzzzz = 3", "a recipe has no loss.zzzzzz; `ibot train --show vit_s16` shows all there is."),
        ("[network.depths]\nlast = 3", "network.depths is {'last': 3}; it must be a list of whole numbers, such as [12]."),
        ("network = 3", "network is 3; it must be a section, [network]."),
        ("summary = 3", "summary is 3; it must be a text."),
        ('inferred = "run.seed"', 'inferred is "run.seed"; it must be a list of texts.'),
        ('inferred = ["run.sed"]', "inferred: a recipe has no run.sed; did you mean run.seed?"),
        ("[optimiser]\nepochs = 3.0", "optimiser.epochs is 3.0; it must be a whole number, such as 800."),
        ("[optimiser]\nepochs = true", "optimiser.epochs is true; it must be a whole number, such as 800."),
        ("[optimiser]\nlr = true", "optimiser.lr is true; it must be a finite number, such as 0.0005."),
        ("[optimiser]\nlr = nan", "optimiser.lr is nan; it must be a finite number, such as 0.0005."),
        ('[optimiser]\nlr = "1e-3"', 'optimiser.lr is "1e-3"; it must be a finite number, such as 0.0005.'),
        ("[loss]\ncentring = 1", "loss.centring is 1; it must be true or false."),
        ("[network]\ndepths = 12", "network.depths is 12; it must be a list of whole numbers, such as [12]."),
        ("[network]\ndepths = [12.0]", "network.depths is [12.0]; it must be a list of whole numbers, such as [12]."),
        ("[masks]\nratios = [0, true]", "masks.ratios is [0, true]; it must be a list of numbers, such as [0.0, 0.3]."),
        ("[crops]\nlocal_scale = [0.1]", "crops.local_scale is [0.1]; it must be a list of 2 numbers, such as [0.05, 0.25]."),
        ("[augmentation]\nblur = [1, 0, 1, 0]", "augmentation.blur is [1, 0, 1, 0]; it must be a list of 3 numbers, such as"),
        ('[network]\narch = "resnet"', 'network.arch is "resnet"; it must be "vit" or "swin".'),
        ("[network]\narch = [1]", 'network.arch is [1]; it must be "vit" or "swin".'),
        ('base = "other.toml"', 'base is "other.toml"; it must be the name of a recipe, not a file.'),
    ],
)
def test_a_file_is_read_strictly(text: str, sentence: str, tmp_path: Path) -> None:
    file = written(tmp_path, text)
    assert failure(file).startswith(f"{file}: {sentence}")


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("optimiser.epochs", "--set optimiser.epochs: a setting is section.key=value, such as optimiser.epochs=100."),
        ("lr=3", "--set lr=3: a recipe has no lr; did you mean optimiser.lr?"),
        ("name=mine", "--set name=mine: a recipe has no name"),
        ("optimiser.lr=.3", '--set optimiser.lr=.3: optimiser.lr is ".3"; it must be a finite number, such as 0.0005.'),
        ("optimiser.lr=", '--set optimiser.lr=: optimiser.lr is ""; it must be a finite number'),
        ("optimiser.epochs=3\nclip = 4", "--set optimiser.epochs=3\nclip = 4: optimiser.epochs is"),
        ("run.seed=" + "9" * 5000, "--set run.seed="),
        ("masks.crops=some", '--set masks.crops=some: masks.crops is "some"; it must be "globals" or "one global" or "all".'),
        ("a.b.c=1", "--set a.b.c=1: a recipe has no a.b.c; "),
        ("run.accumulate=3", "Recipe vit_s16: optimiser.batch_size is 1024; run.accumulate, 3, must divide it."),
    ],
)
def test_settings_are_read_strictly(setting: str, sentence: str) -> None:
    assert failure("vit_s16", setting).startswith(sentence)


def test_recipes_that_cannot_be_found_or_read(tmp_path: Path) -> None:
    assert failure("vits16").startswith("No recipe is called vits16: did you mean vit_s16")
    assert failure("../vit_s16") == (
        "No recipe is called ../vit_s16: did you mean vit_s16 or vit_l16 or vit_b16? `ibot train --list` lists all; "
        "a file is given by its path, which ends in .toml."
    )
    assert failure("qqq") == "No recipe is called qqq: `ibot train --list` lists all; a file is given by its path, which ends in .toml."
    assert failure(written(tmp_path, 'base = ""')).startswith("No recipe is called : ")
    assert failure(str(tmp_path / "absent.toml")) == f"Cannot read the recipe {tmp_path}/absent.toml: no such file or directory."
    assert failure(written(tmp_path, "a = 1\na = 2")).startswith(f"The recipe {tmp_path}/mine.toml is not TOML: Cannot overwrite a value")
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe9"')
    assert failure(str(tmp_path / "latin.toml")).startswith(f"The recipe {tmp_path}/latin.toml is not TOML: 'utf-8' codec")
