"""The page holds every number of the records, and its pictures."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from ibot_hub.attention import attention_maps
from ibot_hub.draw.attention import draw_attention
from ibot_hub.errors import StoreError, UsageError
from ibot_hub.evaluation.frozen import Evaluation, evaluate
from ibot_hub.evaluation.page import attention, curves, summary, write_page
from ibot_hub.evaluation.table import written
from ibot_hub.loading import load
from ibot_hub.model import Model
from tests.class_folders import class_folders


@pytest.fixture(scope="module")
def model(golden: Path) -> Model:
    return load(golden / "vit_micro_checkpoint.pth")


@pytest.fixture(scope="module")
def evaluation(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    root = tmp_path_factory.mktemp("classes")
    return evaluate(model, class_folders(root / "train", 8), class_folders(root / "val", 2, seed=1), root / "out", epochs=2)


def test_the_page_has_all_tables_and_pictures(model: Model, evaluation: Evaluation, tmp_path: Path) -> None:
    pictures = {**curves([evaluation]), **attention(model, evaluation)}
    assert set(pictures) == {"report-knn.png", "report-attention-1.png", "report-attention-2.png", "report-attention-3.png"}
    markdown, html = (file.read_text() for file in write_page([evaluation], pictures, tmp_path / "page"))
    for record in evaluation.records:
        for row in record.table.rows:
            assert f"| {' | '.join(map(written, row))} |" in markdown
            assert "".join(f"<td>{written(cell)}</td>" for cell in row) in html
        assert record.weights[:12] in markdown
    seen = evaluation.records[0].settings["preprocessing"]
    assert f"; images at {seen['size']} px (crop), float32; " in markdown
    assert 'alt="A validation image and the patches that the attention heads of golden/vit_micro_checkpoint.pth look at most."' in html
    for name, picture in pictures.items():
        assert f"({name})" in markdown
        assert f'src="{name}"' in html
        with Image.open(tmp_path / "page" / name) as saved:
            assert saved.size == picture.size
    assert "http" not in html  # it loads nothing from outside


def test_attention_is_drawn_of_the_first_image_of_each_class(model: Model, evaluation: Evaluation) -> None:
    strips = attention(model, evaluation)
    photo = Path(evaluation.val.manifest.source) / "green" / "green_0.png"
    assert strips["report-attention-2.png"].tobytes() == draw_attention(photo, attention_maps(model, photo)).tobytes()


def test_two_models_stand_beside_each_other(evaluation: Evaluation) -> None:
    other = replace(evaluation, records=tuple(replace(record, model="<other>") for record in evaluation.records))
    table = summary([evaluation, other])
    assert table.columns == ("measure", "golden/vit_micro_checkpoint.pth", "<other>")
    like = replace(evaluation, records=tuple(replace(record, model=f"/x{record.model}") for record in evaluation.records))
    assert summary([evaluation, like]).columns[1:] == (evaluation.model, f"/x{evaluation.model}")  # the ends of their paths are the same
    assert all(row[1] == row[2] for row in table.rows)
    knn = next(record.results for record in evaluation.records if record.protocol == "knn")
    assert table.rows[0][:2] == ("k-NN, k = 20, top-1", knn["top1"][knn["k"].index(20)])
    assert "&lt;other&gt;" in table.html()


def test_a_number_that_one_model_has_alone_stands_beside_a_dash(evaluation: Evaluation) -> None:
    without = []
    for record in evaluation.records:
        ways = [way for way in record.results.get("ways", ()) if way["way"] != "head"]
        without.append(replace(record, results={**record.results, "ways": ways}))
    other = replace(evaluation, records=tuple(without))
    for pair, place in (([other, evaluation], 1), ([evaluation, other], 2)):
        [row] = [row for row in summary(pair).rows if row[0] == "clusters by head, NMI"]
        assert row[place] is None
        assert isinstance(row[3 - place], float)


def test_models_measured_on_different_images_are_not_compared(evaluation: Evaluation) -> None:
    elsewhere = replace(evaluation, records=tuple(replace(record, data={"val": "elsewhere"}) for record in evaluation.records))
    with pytest.raises(UsageError, match="elsewhere"):
        summary([evaluation, elsewhere])


def test_a_folder_that_cannot_be_written(evaluation: Evaluation, tmp_path: Path) -> None:
    (tmp_path / "page").write_text("")
    with pytest.raises(StoreError, match="The page cannot be written"):
        write_page([evaluation], {}, tmp_path / "page")


def test_a_swin_has_no_strips(golden: Path, evaluation: Evaluation) -> None:
    assert attention(load(golden / "swin_micro_w7_checkpoint.pth"), evaluation) == {}
