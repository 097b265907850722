"""A model's answers are kept, and a model that answers otherwise is found out."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ibot_hub.errors import WeightsError
from ibot_hub.hub.answers import check_answers, fixed_picture, save_answers
from ibot_hub.loading import load


def test_the_picture_is_the_same_for_ever() -> None:
    picture = fixed_picture(64)
    assert (picture.shape, picture.dtype) == ((3, 64, 64), torch.uint8)
    assert picture[:, 0, 0].tolist() == [0, 71, 143]
    assert picture[1, 2, 3].item() == (3 * ((10 + 9 + 85) % 256) + (2 * 7919 + 3 * 104729 + 1299709) % 251) // 4
    assert len(picture.unique()) > 200


def test_changed_answers_are_found(golden: Path, tmp_path: Path) -> None:
    model, file = load(golden / "vit_micro_checkpoint.pth", head=True), tmp_path / "answers.safetensors"
    save_answers(model, file)
    kept = load_file(file)
    tokens = model(model.transform.normalise(fixed_picture(model.transform.size))[None])
    row = tokens.patches.shape[1] // 2
    assert torch.allclose(kept["patches"], tokens.patches[0, row], atol=1e-5)
    assert torch.allclose(kept["confidences"], model.head(tokens).patches[0, row].amax(-1), atol=1e-5)  # type: ignore[misc]
    assert check_answers(model, file) < 1e-5
    assert check_answers(load(golden / "vit_micro_checkpoint.pth", head=False), file) < 1e-5
    for name in kept:
        changed = {**kept, name: kept[name] + 0.01 * kept[name].abs().max()}
        save_file(changed, file)
        with pytest.raises(WeightsError, match=r"answers 0\.01 apart from what it answered when this was written"):
            check_answers(model, file)
    save_file({**kept, "cls": kept["cls"] * torch.nan}, file)
    with pytest.raises(WeightsError, match="answers nan apart"):
        check_answers(model, file)
    save_file({"cls": kept["cls"][1:]}, file)
    with pytest.raises(WeightsError, match=r"is of another model: it has no cls of shape \(\d+,\)"):
        check_answers(model, file)
    file.write_bytes(b"")
    with pytest.raises(WeightsError, match="cannot be read"):
        check_answers(model, file)
