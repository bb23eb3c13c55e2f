"""A broken bundle is refused; the message names the file and the command that helps."""

import json
from datetime import datetime

import pytest
from serving_data import make_bundle

from jollyboat.bundles import bundle as bundles
from jollyboat.bundles.bundle import open_bundle
from jollyboat.bundles.features import FeatureQuery, rows_of_request
from jollyboat.store import Store, UserError


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


@pytest.fixture
def bundle(store):
    return make_bundle(store)


def test_a_whole_bundle_opens(bundle):
    opened = open_bundle(bundle.folder)

    assert opened.version == bundle.folder.name
    assert opened.sample["answer"]["probability"] == 0.4
    assert opened.lookups["lookup_product"]["popularity"] == "BIGINT"


def test_the_same_parts_give_the_same_version_and_the_folder_is_left_alone(store, bundle):
    before = bundle.folder.stat().st_ino

    again = make_bundle(store)

    assert again.version == bundle.version
    assert again.folder.stat().st_ino == before


def test_other_content_gives_another_version(store, bundle):
    assert make_bundle(store, carted=0.5).version != bundle.version


def test_assembling_leaves_nothing_half_made(store, bundle, monkeypatch):
    monkeypatch.setattr(
        bundles,
        "_put_in_place",
        lambda draft, target: (_ for _ in ()).throw(OSError(28, "disk full")),
    )

    with pytest.raises(OSError, match="disk full"):
        make_bundle(store, carted=0.6)

    assert [path.name for path in (store.models / "shared").iterdir()] == [bundle.version]


def test_a_broken_bundle_is_replaced_by_assembling_it_again(store, bundle):
    (bundle.folder / "features.sql").write_text("select 1")

    make_bundle(store)

    assert open_bundle(bundle.folder).version == bundle.version
    assert [path.name for path in bundle.folder.parent.iterdir()] == [bundle.version]


@pytest.mark.parametrize(
    "name", ["features.sql", "schema.json", "sample.json", "card.html", "model/model.skops"]
)
def test_a_changed_file_is_named(bundle, name):
    with (bundle.folder / name).open("a") as file:
        file.write(" ")

    with pytest.raises(UserError, match=rf"{name} .*was changed.*make deploy"):
        open_bundle(bundle.folder)


def test_a_missing_file_is_named(bundle):
    (bundle.folder / "model" / "model.skops").unlink()

    with pytest.raises(UserError, match=r"missing the file model/model.skops.*make deploy.*") as no:
        open_bundle(bundle.folder)

    assert "`.venv/bin/python flows/deploy.py run --candidate run-1`" in str(no.value)


def test_an_added_file_is_named(bundle):
    (bundle.folder / "model" / "extra.pkl").write_bytes(b"x")

    with pytest.raises(UserError, match=r"holds model/extra.pkl.*make deploy"):
        open_bundle(bundle.folder)


def test_a_changed_manifest_is_refused(bundle):
    path = bundle.folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "threshold": 0.9}))

    with pytest.raises(UserError, match=r"manifest.json .*was changed.*make deploy"):
        open_bundle(bundle.folder)


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"files": 1}'])
def test_a_bundle_without_a_manifest_is_refused_in_a_sentence(bundle, content):
    path = bundle.folder / "manifest.json"
    path.unlink() if content is None else path.write_text(content)

    with pytest.raises(UserError, match=r"manifest.json"):
        open_bundle(bundle.folder)


def test_another_library_version_is_named(bundle, monkeypatch):
    installed = bundles.installed_libraries()
    monkeypatch.setattr(bundles, "installed_libraries", lambda: {**installed, "duckdb": "0.0.1"})

    with pytest.raises(UserError, match=r"asks for duckdb .* here it is 0.0.1.*make deploy"):
        open_bundle(bundle.folder)


@pytest.mark.parametrize("owner", ["", "..", "../x", "a/b", ".hidden", "x" * 65, "a b", "a\n"])
def test_an_owner_that_is_no_folder_name_is_refused(store, owner):
    with pytest.raises(UserError, match="cannot own a model"):
        make_bundle(store, owner=owner)


def test_the_server_gives_an_infinite_or_nan_feature_as_null():
    query = FeatureQuery(
        "select entity_id, 1.0::double / 0 as x, 'nan'::double as y, 0.5::double as z "
        "from events_at_point",
        {},
    )
    event = {"event_type": "page_view", "occurred_at": datetime(2026, 1, 1)}

    row = query.run([rows_of_request(0, "acme", [event])], ["x", "y", "z"]).iloc[0]

    assert [None, None, 0.5] == row.tolist()
