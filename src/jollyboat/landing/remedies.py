"""What to do about a file of raw logs that cannot be read: one sentence for its format or fault."""

from jollyboat.landing.landing import LandedFile

REMEDIES = {
    "damaged_gzip": "it is cut off or no gzip; copy it again",
    "damaged_bz2": "it is cut off or no bzip2; copy it again",
    "damaged_lzma": "it is cut off or no xz; copy it again",
    "damaged_parquet": "it is cut off or no Parquet; copy it again",
    "line_too_long": "no record of it is shorter than 2 MiB; write one record to a line",
    "no_arrival_day": "move it to data/raw/<source>/dt=YYYY-MM-DD/, no day over a year ahead",
    "unparsable": "its first row cannot be read as CSV; export it again with ends of lines",
    "unreadable_file": "run `chmod u+r` on it; put files in place of a link to a folder, "
    "and rename what is not UTF-8",
    "utf_16": "convert it with `iconv -f UTF-16 -t UTF-8`",
}
CONVERSIONS = {
    (".zst",): "unzip it with `zstd -d --rm`",
    (".lz4", ".br", ".sz", ".snappy", ".lzo", ".z", ".parquet"): "unzip it",
    (".zip", ".tar", ".tgz", ".7z", ".rar"): "unpack it; each file in it may be a .gz",
    (".xlsx", ".xls", ".ods"): "save it as CSV in UTF-8",
    (".avro", ".orc", ".arrow", ".feather", ".pkl"): "write it as Parquet or JSON lines",
    (".xml", ".yaml", ".yml", ".html"): "write it as JSON lines",
}
OTHERS = "rename it by what it holds: .jsonl, .json, .csv, .tsv, .log (each also .gz), or .parquet"


def describe(file: LandedFile) -> str:
    """The file's name, why it cannot be read, and what to do."""
    name = file.file.lower().removesuffix(".gz")
    conversions = (text for ends, text in CONVERSIONS.items() if name.endswith(ends))
    remedy = REMEDIES.get(file.damage) or next(conversions, OTHERS)
    return f"{file.file}: {file.damage}; {remedy}"
