"""A table names the images of its members, wherever in a long listing they stand."""

import os
from pathlib import Path

import numpy as np
import torch

from ibot_hub.listing import ROW_GROUP, write_listing
from ibot_hub.patterns.atlas_table import atlas_table
from ibot_hub.patterns.ranking import MEMBER, Ranking


def test_members_have_their_images(tmp_path: Path) -> None:
    count = ROW_GROUP + 10
    names = [b"img%d.jpg" % row for row in range(count)]
    names[3] = b"caf\xe9.jpg"
    (tmp_path / "list.txt").write_bytes(b"\n".join(names))
    listing = write_listing(tmp_path / "list.txt", tmp_path / "listing.parquet")
    ranking = Ranking(3, 4)
    members = np.zeros(5, MEMBER)
    members["image"] = [ROW_GROUP + 7, 3, ROW_GROUP - 1, 0, ROW_GROUP + 7]
    members["confidence"] = [0.5, 0.75, 1, 2, 3]
    members["row"], members["column"], members["width"], members["height"] = 5, 6, 70, 80
    ranking.add(np.array([0, 0, 0, 2, 2]), members)
    rows = atlas_table(ranking, listing, torch.tensor([1.0, 2.0, 3.0])).to_pylist()
    assert [(row["pattern"], row["size"], row["centre"]) for row in rows] == [(0, 3, 1.0), (1, 0, 2.0), (2, 2, 3.0)]
    found = [[member["path"] for member in row["members"]] for row in rows]
    last = f"img{ROW_GROUP + 7}.jpg"
    assert found == [[f"img{ROW_GROUP - 1}.jpg", "caf\\xe9.jpg", last], [], [last, "img0.jpg"]]
    second = rows[0]["members"][1]
    place = {"location": os.fsencode(Path.cwd()) + b"/caf\xe9.jpg", "offset": -1, "bytes": -1, "picture": None}
    assert second == {"path": "caf\\xe9.jpg", "row": 5, "column": 6, "confidence": 0.75, "width": 70, "height": 80, **place}


def test_without_a_centre_the_column_is_empty(tmp_path: Path, photos: Path) -> None:
    listing = write_listing(photos, tmp_path / "listing.parquet")
    ranking = Ranking(2, 4)
    ranking.add(np.array([1]), np.zeros(1, MEMBER))
    table = atlas_table(ranking, listing, None)
    assert table["centre"].null_count == 2
    assert table["members"][1].as_py()[0]["location"] == os.fsencode(photos / "astronaut.jpg")
