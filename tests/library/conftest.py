"""One small store that has gone the whole path, shared by the tests that look at it; copy it before changing it."""

import fcntl
import os
import pickle
import shutil
import subprocess
from pathlib import Path

import pytest
from whole_path import go_the_whole_path, need_simulated_sources

from jollyboat.store import Store

# A flow's base sets Metaflow's variables. The processes that tests start would inherit them, and
# Metaflow's runs of all stores would lie in one folder.
_variables = dict(os.environ)
import jollyboat.flows  # noqa: E402, F401

os.environ.clear()
os.environ.update(_variables)


@pytest.fixture(scope="session")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, subprocess.CompletedProcess]:
    """What each verb said on the whole path, in order; the first process that asks goes it, the others wait."""
    need_simulated_sources()
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    kept = folder / "said.pickle"
    with (folder / "said.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            kept.write_bytes(pickle.dumps(go_the_whole_path(Store(folder / "store"))))
    return pickle.loads(kept.read_bytes())


@pytest.fixture(scope="session")
def built(result: dict) -> Store:
    """The store that the whole path built; look, do not touch."""
    return result["store"]


@pytest.fixture
def copied(built: Store, tmp_path: Path) -> Store:
    """A copy of the built store, to be broken."""
    shutil.copytree(built.root, tmp_path / "store")
    return Store(tmp_path / "store")
