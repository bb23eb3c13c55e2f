"""How a build is cut into shards; tests/faults/test_data_shards.py builds them."""

import pytest

from jollyboat.erasure import erase
from jollyboat.landing.landing import Landing
from jollyboat.store import Store, UserError, write_json
from jollyboat.warehouse import shards
from jollyboat.warehouse.shards import Plan, Shard, deal

PLAN = Plan({"code": "same"}, 2)


def test_tenants_are_dealt_by_their_events_and_the_largest_is_alone():
    by_files = [{"large": 60, "middle": 5}, {"large": 40, "middle": 25, "small": 20, "least": 1}]

    assert deal(by_files, 3) == [
        Shard(0, ["large"], 100),
        Shard(1, ["middle"], 30),
        Shard(2, ["small", "least"], 21),
    ]


def test_no_shard_is_empty_where_there_are_more_shards_than_tenants():
    assert deal([{"acme": 3, "luma": 3}], 5) == [Shard(0, ["acme"], 3), Shard(1, ["luma"], 3)]


def test_logs_without_a_tenant_are_one_shard():
    assert deal([{}, {}], 3) == [Shard(0, [], 0)]


def test_a_plan_is_of_its_inputs_and_its_number_of_shards():
    assert PLAN.id == Plan({"code": "same"}, 2).id
    assert len({PLAN.id, Plan({"code": "another"}, 2).id, Plan({"code": "same"}, 3).id}) == 3


def write_task(store: Store, task: str, columns: dict[str, str]) -> None:
    folder = store.shards / PLAN.id / task
    write_json(
        folder / "built.json", {"tables": {"lookup_rate": columns}, "models": [], "compiled": {}}
    )
    (folder / "lookup_rate.parquet").touch()


def test_a_model_of_all_tenants_is_refused_with_the_tag_that_it_needs(tmp_path):
    store = Store(tmp_path)
    write_task(store, "tables-0", {"tenant_id": "VARCHAR", "rate": "DOUBLE"})
    write_task(store, "tables-1", {"rate": "DOUBLE"})

    shards.build_tables(store, PLAN, Shard(0, ["acme"], 1))
    with pytest.raises(
        UserError, match=r"model lookup_rate has no column tenant_id.*across_tenants"
    ):
        shards.build_tables(store, PLAN, Shard(1, ["luma"], 1))


def test_shards_are_refused_where_spark_builds_the_tables(tmp_path, monkeypatch):
    landed = Landing([], "nothing", [], [], [], [])
    monkeypatch.setattr(shards, "build_inputs", lambda *_: {"engine": "spark"})

    with pytest.raises(UserError, match=r"engine in project.toml is \"spark\".*data_shards = 1"):
        shards.plan(Store(tmp_path), landed, 2)


def test_a_task_that_another_run_has_removed_is_reported(tmp_path):
    with pytest.raises(UserError, match="another data run has removed it"):
        shards._record(Store(tmp_path), PLAN, "events-0")


def test_an_erasure_removes_what_shards_built(tmp_path):
    store = Store(tmp_path)
    write_task(store, "tables-0", {"tenant_id": "VARCHAR"})

    erase._remove_derived(store, [])

    assert not store.shards.exists()
