"""A ranking of listed images -> the table of an atlas."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from ibot_hub.listing import ROW_GROUP, Listing
from ibot_hub.patterns.atlas import SCHEMA, members_of
from ibot_hub.patterns.ranking import MEMBER, Ranking
from ibot_hub.sources import shown


def atlas_table(ranking: Ranking, listing: Listing, centre: Tensor | None) -> pa.Table:
    """What was kept as the rows of an atlas; of the listing only the images that have a member are ever in memory."""
    counts, kept = ranking.members()
    rows, place = np.unique(kept["image"], return_inverse=True)
    columns = {name: pa.array(kept[name]) for name in MEMBER.names or () if name != "image"}
    for name, values in _images(listing, rows).items():
        if name in ("path", "location"):
            columns[name] = pa.DictionaryArray.from_arrays(pa.array(place.astype(np.int32)), values)
        else:
            columns[name] = values.take(pa.array(place))
    columns["picture"] = pa.nulls(len(kept), pa.binary())
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    patterns = len(ranking.sizes)
    return pa.table(
        [
            pa.array(np.arange(patterns, dtype=np.int32)),
            pa.array(ranking.sizes),
            pa.nulls(patterns, pa.float32()) if centre is None else pa.array(centre.cpu().numpy()),
            pa.ListArray.from_arrays(pa.array(offsets), members_of(columns)),
        ],
        names=SCHEMA.names,
    )


def _images(listing: Listing, rows: npt.NDArray[np.int64]) -> dict[str, pa.Array]:
    """Path, location, offset and bytes of some images of the listing, which is never in memory whole."""
    groups = []
    with pq.ParquetFile(listing.file) as parquet:
        for group in range(parquet.num_row_groups):
            wanted = rows[rows // ROW_GROUP == group] - group * ROW_GROUP
            table = parquet.read_row_group(group).take(pa.array(wanted))
            paths = pa.array([shown(name) for name in table["name"].to_pylist()], pa.string())
            groups.append(table.set_column(0, "path", paths).rename_columns({"size": "bytes"}))
    images = pa.concat_tables(groups)
    return {name: images[name].combine_chunks() for name in images.column_names}
