"""Writes the files of this directory, with pyarrow 26.0.1 (`pip install pyarrow`)."""

import pyarrow as pa
import pyarrow.parquet as pq

# Snappy, dictionaries, nulls: pyarrow's defaults. Two row groups.
fields = pa.table(
    {
        "id": pa.array([10, 11, 12, None, -14], pa.int64()),
        "embedding": pa.array([[0.5, 1, 2], [0.1, 0.2, 0.3], None, [1e300, 0, 0], [4, 5, 6]], pa.list_(pa.float64())),
        "title": pa.array(["a \"b\"\n", "ü", "ü", None, "ü"]).dictionary_encode(),
        "year": pa.array([1999, None, 2001, 2002, 2003], pa.int16()),
        "large": pa.array([2**64 - 1, 0, 1, 2, 3], pa.uint64()),
        "score": pa.array([0.1, None, 1.5, 2.5, float("nan")], pa.float32()),
        "good": pa.array([True, False, None, True, True]),
        "tags": pa.array([["x", None], [], None, ["y"], ["z"]], pa.list_(pa.string())),
        "when": pa.array([0, 1, 2, 3, 4], pa.timestamp("us")),
    }
)
pq.write_table(fields, "fields.parquet", row_group_size=3)

# zstd, pages of version 2, checksums of pages, half floats of a fixed number.
metadata = pa.table(
    {
        "id": pa.array(["one", "two", "three"]),
        "values": pa.array([[1, -0.5], [65504, 2**-24], [0, 3]], pa.list_(pa.float16(), 2)),
        "metadata": pa.array(['{"n" : 1.50}', None, "{}"], pa.large_string()),
    }
)
pq.write_table(metadata, "metadata.parquet", compression="zstd", data_page_version="2.0", write_page_checksum=True)
