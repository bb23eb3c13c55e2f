"""Searches the files of a store for texts, with tables decoded and archives unpacked."""

import gzip
import os
import subprocess
import tempfile
import zipfile
from pathlib import Path

import duckdb


def files_with(texts: set[str], *folders: Path) -> set[Path]:
    """The files of the folders that have one of the texts, as a part of a word, too."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    with tempfile.TemporaryDirectory() as place:
        unpacked = Path(place) / "unpacked"
        for number, path in enumerate(files):
            unpack(path, unpacked / str(number))
        patterns = Path(place) / "texts"
        patterns.write_text("".join(f"{text}\n" for text in sorted(texts)), encoding="utf-8")
        where = [str(each) for each in (*folders, unpacked) if each.exists()]
        command = ["grep", "-rlFa", "-f", str(patterns), *where]
        answer = subprocess.run(
            command, env=os.environ | {"LC_ALL": "C"}, stdout=subprocess.PIPE, text=True
        )
        assert answer.returncode in (0, 1)
        hits = {Path(line) for line in answer.stdout.splitlines()}
        within = {hit for hit in hits if hit.is_relative_to(unpacked)}
        packed = {path for number, path in enumerate(files) if (unpacked / str(number)).exists()}
        # Bytes of a packed file are no text: two values beside each other may look like a third.
        return (hits - within - packed) | {
            files[int(hit.relative_to(unpacked).parts[0])] for hit in within
        }


def unpack(path: Path, folder: Path) -> None:
    """Write what the file holds into the folder as text; a file that is not packed is left out."""
    with path.open("rb") as file:
        magic = file.read(4)
    if path.suffix == ".parquet":
        folder.mkdir(parents=True)
        table = duckdb.read_parquet(str(path), hive_partitioning=False)
        table.write_csv(str(folder / "rows.csv"))
    elif path.suffix == ".duckdb":
        folder.mkdir(parents=True)
        with duckdb.connect(str(path), read_only=True) as connection:
            names = connection.sql("select table_name from duckdb_tables()").fetchall()
            for (name,) in names:
                connection.table(name).write_csv(str(folder / f"{name}.csv"))
    elif magic[:2] == b"\x1f\x8b":
        folder.mkdir(parents=True)
        (folder / "content").write_bytes(gzip.decompress(path.read_bytes()))
    elif magic == b"PK\x03\x04":
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
