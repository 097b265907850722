"""`ibot patterns`: what it writes, what it says and how it ends."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ibot_hub.images import decode
from ibot_hub.patterns.atlas import open_atlas

Ibot = Callable[..., tuple[int, str, str]]


@pytest.fixture
def found(ibot: Ibot, photos: Path, checkpoint: str, tmp_path: Path) -> Path:
    """An atlas of four photographs."""
    assert ibot("patterns", "find", photos, "-o", tmp_path / "atlas.parquet", "--model", checkpoint, "--limit", "4")[0] == 0
    return tmp_path / "atlas.parquet"


def test_find(ibot: Ibot, photos: Path, checkpoint: str, tmp_path: Path) -> None:
    words = ("patterns", "find", photos, "-o", tmp_path / "a.parquet", "--model", checkpoint, "--limit", "3")
    code, stdout, stderr = ibot(*words)
    assert (code, stdout) == (0, "")
    assert "teacher network" in stderr
    assert f"3 of 3 images -> {tmp_path / 'a.parquet'}: 588 patches in " in stderr
    assert "of 96 patterns, by logit, " in stderr
    assert "finding" not in stderr  # the progress line is for terminals
    code, _, stderr = ibot(*words)
    assert (code, "is there already; choose another --out, or --overwrite" in stderr) == (1, True)
    code, stdout, _ = ibot(*words, "--overwrite", "--json", "--network", "student", "--of", "cls", "--members", "2")
    facts = json.loads(stdout)
    assert (code, facts["of"], facts["network"], facts["assigned"], facts["patterns"]) == (0, "cls", "student", 3, 96)
    assert sum(size for _, size in facts["largest"]) == 3
    assert open_atlas(tmp_path / "a.parquet").facts.members == 2


def test_images_that_cannot_be_read_are_named(ibot: Ibot, photos: Path, checkpoint: str, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "bad.png").write_bytes(b"no picture")
    words = ("patterns", "find", tmp_path / "images", "-o", tmp_path / "a.parquet", "--model", checkpoint)
    code, _, stderr = ibot(*words)
    assert (code, "can be read; the first, bad.png: no image that can be read, whatever its name says" in stderr) == (1, True)
    assert not (tmp_path / "a.parquet").exists()
    (tmp_path / "images" / "good.jpg").write_bytes((photos / "coffee.jpg").read_bytes())
    code, _, stderr = ibot(*words)
    assert (
        code,
        "1 of 2 images" in stderr,
        "bad.png: no image that can be read, whatever its name says\n1 images could not be read" in stderr,
    ) == (
        0,
        True,
        True,
    )
    assert json.loads(ibot(*words, "--overwrite", "--json")[1])["failures"] == [
        ["bad.png", "no image that can be read, whatever its name says"]
    ]


def test_a_mistake_is_told_before_a_model_is_fetched(ibot: Ibot, photos: Path, tmp_path: Path) -> None:
    """The model's name is wrong too, but that would be seen only by looking for it."""
    for words, said in (
        (("find", tmp_path / "missing"), "There is no"),
        (("find", photos, "-o", tmp_path), "is a folder; choose another --out"),
        (("find", photos, "--temperature", "0"), "temperature is 0.0; it must be above 0"),
        (("compose", tmp_path / "missing.jpg"), "missing.jpg: no such file"),
        (("compose", photos / "coffee.jpg"), "--atlas is missing: `ibot patterns find IMAGES --model vit_nope` makes one"),
    ):
        code, _, stderr = ibot("patterns", *words, "--model", "vit_nope")
        assert code in (1, 2)
        assert said in stderr
        assert "Traceback" not in stderr


def test_a_backbone_alone_is_refused(ibot: Ibot, photos: Path, golden: Path, tmp_path: Path) -> None:
    words = ("--model", golden / "swin_micro_w14_checkpoint_teacher.pth", "-o", tmp_path / "a.parquet")
    code, _, stderr = ibot("patterns", "find", photos, *words)
    assert (code, "holds no projection head; the full checkpoint has it" in stderr) == (1, True)


def test_show(ibot: Ibot, found: Path, tmp_path: Path) -> None:
    code, stdout, stderr = ibot("patterns", "show", found, "-o", tmp_path / "top.png", "--top", "5")
    assert (code, stdout) == (0, "")
    assert f"the 5 largest of 96 patterns, found by {open_atlas(found).facts.model} in 4 images -> {tmp_path / 'top.png'}" in stderr
    first, second = open_atlas(found).top(2)
    words = ("patterns", "show", found, "-o", tmp_path / "one.png", "--pattern", str(second), "--members", "2", "--json")
    code, stdout, _ = ibot(*words)
    (facts,) = json.loads(stdout)["patterns"]
    members = open_atlas(found).members(second)
    assert (code, facts["pattern"], facts["size"]) == (0, second, int(open_atlas(found).sizes[second]))
    assert [member["path"] for member in facts["members"]] == [member.path for member in members][: len(facts["members"])]
    left, top, right, bottom = facts["members"][0]["box"]
    assert 0 <= left < right <= members[0].width
    assert 0 <= top < bottom <= members[0].height
    assert decode(tmp_path / "one.png").width < decode(tmp_path / "top.png").width
    code, _, stderr = ibot("patterns", "show", found, "--top", "3", "--pattern", str(first))
    assert (code, "say one of the two" in stderr) == (2, True)


def test_what_cannot_be_shown(ibot: Ibot, found: Path, tmp_path: Path) -> None:
    atlas = open_atlas(found)
    empty = next(pattern for pattern in range(96) if not atlas.sizes[pattern])
    for words, said in (
        ((found, "--pattern", "96"), "Pattern 96 does not exist; this atlas has 96"),
        ((found, "--pattern", str(empty)), f"Pattern {empty} gathered nothing in this atlas"),
        ((found, "-o", tmp_path / "a.nothing"), "a.nothing names no format of pictures; call it .png, .jpg or .webp"),
        ((found, "-o", tmp_path / "nowhere" / "a.png"), "There is no folder "),
        ((tmp_path / "no.parquet",), "There is no "),
    ):
        code, _, stderr = ibot("patterns", "show", *words)
        assert code in (1, 2)
        assert said in stderr


def test_images_that_are_gone_are_named(ibot: Ibot, photos: Path, checkpoint: str, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("coffee.jpg", "clock.jpg"):
        (tmp_path / "images" / name).write_bytes((photos / name).read_bytes())
    atlas, out = tmp_path / "atlas.parquet", tmp_path / "top.png"
    carried = tmp_path / "carried.parquet"
    find = ("patterns", "find", tmp_path / "images", "--model", checkpoint)
    assert (ibot(*find, "-o", atlas)[0], ibot(*find, "-o", carried, "--pictures", "96")[0]) == (0, 0)
    (tmp_path / "images" / "coffee.jpg").unlink()
    code, _, stderr = ibot("patterns", "show", atlas, "-o", out)
    assert (code, out.exists()) == (0, True)
    assert stderr.startswith("coffee.jpg: no such file\n1 images could not be shown; the next members are in their place\n")
    (tmp_path / "images" / "clock.jpg").unlink()
    code, _, stderr = ibot("patterns", "show", atlas, "-o", out)
    assert (code, "None of the images that this atlas speaks of can be shown, such as c" in stderr) == (1, True)
    assert "with --pictures" in stderr
    code, _, stderr = ibot("patterns", "show", carried, "-o", out)
    assert (code, "could not" in stderr) == (0, False)


def test_compose(ibot: Ibot, photos: Path, checkpoint: str, found: Path, tmp_path: Path) -> None:
    words = ("patterns", "compose", photos / "two_dogs.jpg", "--atlas", found, "--model", checkpoint, "-o", tmp_path / "c.png")
    code, stdout, stderr = ibot(*words)
    assert (code, stdout, ", by attention of [CLS] -> " in stderr) == (0, "", True)
    assert decode(tmp_path / "c.png").width > 480
    code, stdout, _ = ibot(*words, "--count", "2", "--json")
    facts = json.loads(stdout)
    assert (code, len(facts["parts"]), facts["of"]) == (0, 2, "attention of [CLS]")
    first, second = facts["parts"]
    assert first["attention"] > second["attention"]
    assert first["pattern"] != second["pattern"]
    assert len(first["box"]) == 4
    code, _, stderr = ibot(*words, "--network", "student")
    assert (code, "pattern numbers of one head mean nothing to another's" in stderr) == (2, True)


def test_without_an_atlas_that_of_the_embedded_model_is_taken(
    ibot: Ibot, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, stderr = ibot("patterns", "find", photos, "-o", tmp_path / "a.parquet", "--limit", "2")
    assert (code, "--model vit_b16" in stderr) == (0, True)
    monkeypatch.setattr("ibot_hub.patterns.atlas.EMBEDDED", tmp_path / "a.parquet")
    assert ibot("patterns", "show", "-o", tmp_path / "top.png")[0] == 0
    assert ibot("patterns", "compose", photos / "coffee.jpg", "-o", tmp_path / "c.png")[0] == 0
    assert (tmp_path / "c.png").exists()
