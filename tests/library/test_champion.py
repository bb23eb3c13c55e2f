"""A pointer names the champion; its history is kept, and each step can be taken back."""

import os
import re
import subprocess
import sys
import threading

import pytest
from serving_data import make_bundle
from whole_path import JOLLYBOAT

from jollyboat.bundles.bundle import open_bundle
from jollyboat.champions import champion, policy
from jollyboat.champions.champion import (
    current,
    format_versions,
    promote,
    prune,
    rollback,
    why_rolled_back,
)
from jollyboat.store import Store, UserError, read_json, write_json

WHO = {"by": "test", "why": "a test"}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


@pytest.fixture
def versions(store):
    return [make_bundle(store, carted=rate).version for rate in (0.4, 0.5, 0.6)]


def crown(store, version, **more):
    return promote(store, "shared", version, run="run-1", **WHO, **more)


def test_there_is_no_champion_at_first(store):
    assert current(store, "acme") is None


def test_a_tenant_has_its_own_champion_else_the_shared_one(store, versions):
    own = make_bundle(store, owner="acme")
    crown(store, versions[0])
    promote(store, "acme", own.version, run="run-1", **WHO)

    assert current(store, "acme") == ("acme", own.version)
    assert current(store, "globex") == ("shared", versions[0])


def test_a_champion_promoted_again_is_left_alone_and_says_so(store, versions):
    crown(store, versions[0])

    again = crown(store, versions[0])

    assert not again.changed
    assert "already the champion" in again.sentence
    assert len(read_json(store.champion("shared"))["history"]) == 1


def test_the_history_says_who_why_and_what_was_before(store, versions):
    crown(store, versions[0])
    crown(store, versions[1])

    entry = read_json(store.champion("shared"))["history"][-1]

    assert {"version", "at", "by", "why", "run", "previous"} <= set(entry)
    assert (entry["version"], entry["previous"], entry["by"]) == (versions[1], versions[0], "test")


def test_a_broken_bundle_is_not_promoted(store, versions):
    (store.bundle("shared", versions[0]) / "features.sql").unlink()

    with pytest.raises(UserError, match=r"features.sql"):
        crown(store, versions[0])

    assert current(store) is None


def test_a_bundle_is_not_promoted_when_the_champion_it_was_judged_against_is_gone(store, versions):
    crown(store, versions[0], over=None)
    crown(store, versions[1], over=versions[0])

    with pytest.raises(UserError, match=r"judged against .*make deploy"):
        crown(store, versions[2], over=versions[0])

    assert current(store) == ("shared", versions[1])


def test_rollback_goes_back_and_a_second_one_further(store, versions):
    for version in versions:
        crown(store, version)

    assert rollback(store, **WHO).version == versions[1]
    assert rollback(store, **WHO).version == versions[0]
    with pytest.raises(UserError, match="no earlier champion"):
        rollback(store, **WHO)
    assert current(store) == ("shared", versions[0])


def test_a_promotion_after_a_rollback_is_taken_back_to_where_it_was(store, versions):
    crown(store, versions[0])
    crown(store, versions[1])
    rollback(store, **WHO)
    crown(store, versions[2])

    assert rollback(store, **WHO).version == versions[0]


def test_a_version_that_was_rolled_back_is_known_until_it_is_promoted_again(store, versions):
    crown(store, versions[0])
    crown(store, versions[1])
    rollback(store, by="ada", why="too many alarms")
    crown(store, versions[2])

    reason = why_rolled_back(store, "shared", versions[1])
    crown(store, versions[1])

    assert reason.startswith("rolled back on 20") and reason.endswith("by ada: too many alarms")
    assert why_rolled_back(store, "shared", versions[0]) == ""
    assert why_rolled_back(store, "shared", versions[1]) == ""
    assert why_rolled_back(store, "acme", versions[1]) == ""


def test_rollback_to_a_named_version(store, versions):
    for version in versions:
        crown(store, version)

    assert rollback(store, to=versions[0], **WHO).version == versions[0]
    with pytest.raises(UserError, match="never the champion"):
        rollback(store, to="ffffffffffff", **WHO)


def test_rollback_needs_neither_training_nor_a_flow(store, versions):
    for version in versions[:2]:
        crown(store, version)
    command = [sys.executable, *JOLLYBOAT, "rollback"]

    back = subprocess.run(
        command, env=os.environ | {"STORE_ROOT": str(store.root)}, capture_output=True, text=True
    )
    again = subprocess.run(
        command, env=os.environ | {"STORE_ROOT": str(store.root)}, capture_output=True, text=True
    )

    assert (back.returncode, again.returncode) == (0, 1)
    assert f"{versions[0]} is now the champion" in back.stdout
    assert "no earlier champion" in again.stderr
    assert current(store) == ("shared", versions[0])


def test_a_champion_that_was_forced_is_listed_as_forced_as_long_as_it_serves(store, versions):
    crown(store, versions[0], gate="a-gate.html")
    crown(store, versions[1], forced="the old one is worse still")
    crown(store, versions[2])

    assert champion_entry(store)["forced"] is None
    assert rollback(store, **WHO).version == versions[1]
    assert champion_entry(store)["forced"] == "the old one is worse still"
    assert re.search(
        rf"{versions[1]} .*CHAMPION .*FORCED: the old one is worse still", format_versions(store)
    )
    assert rollback(store, **WHO).version == versions[0]
    assert (champion_entry(store)["gate"], champion_entry(store)["forced"]) == ("a-gate.html", None)


def test_old_versions_go_but_never_the_champion_the_one_before_or_one_that_a_pointer_names(store):
    versions = [make_bundle(store, carted=rate / 10).version for rate in range(1, 8)]
    for version in versions[:2]:
        crown(store, version)
    write_json(store.gate("shared", versions[3]), {"decision": {"passed": False}})
    write_json(store.models / "shared" / "challenger.json", {"version": versions[2]})

    assert prune(store, "shared", keep=2) == [versions[4], versions[3]]
    assert not store.gate("shared", versions[3]).exists()
    assert all(
        open_bundle(store.bundle("shared", version)) for version in [*versions[:3], *versions[5:]]
    )
    assert rollback(store, **WHO).version == versions[0]


def test_rollback_to_a_version_that_is_no_longer_kept_is_refused(store, versions):
    for version in versions:
        crown(store, version)
    prune(store, "shared", keep=1)

    with pytest.raises(UserError, match=f"{versions[0]} is no longer kept; `jollyboat models`"):
        rollback(store, to=versions[0], **WHO)


def test_rollback_to_a_broken_bundle_is_refused(store, versions):
    crown(store, versions[0])
    crown(store, versions[1])
    (store.bundle("shared", versions[0]) / "card.html").unlink()

    with pytest.raises(UserError, match=r"card.html"):
        rollback(store, **WHO)
    assert current(store) == ("shared", versions[1])


def test_two_promotions_at_once_leave_one_champion_and_both_in_the_history(store, versions):
    for _ in range(10):
        barrier = threading.Barrier(2)

        def race(version, barrier=barrier):
            barrier.wait()
            crown(store, version)

        threads = [threading.Thread(target=race, args=(version,)) for version in versions[:2]]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]

    pointer = read_json(store.champion("shared"))
    assert pointer["version"] == pointer["history"][-1]["version"]
    line = [None, *(entry["version"] for entry in pointer["history"])]
    assert [entry["previous"] for entry in pointer["history"]] == line[:-1]


def test_of_two_promotions_judged_against_the_same_champion_one_is_refused_ten_times_of_ten(
    store, versions
):
    refused = []

    def race(barrier, version):
        barrier.wait()
        try:
            crown(store, version, over=versions[0])
        except UserError as error:
            refused.append(error)

    for attempt in range(1, 11):
        crown(store, versions[0])
        barrier = threading.Barrier(2)
        threads = [
            threading.Thread(target=race, args=(barrier, version)) for version in versions[1:]
        ]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]

        assert len(refused) == attempt
        assert current(store)[1] in versions[1:]


def champion_entry(store: Store) -> dict:
    """The history's entry of the present champion."""
    return read_json(store.champion("shared"))["history"][-1]


# Tenants


@pytest.fixture
def own(store, versions):
    """The version of acme's own champion, beside the shared one."""
    crown(store, versions[0])
    version = make_bundle(store, owner="acme").version
    promote(store, "acme", version, run="run-1", **WHO)
    return version


def test_a_rollback_of_a_tenants_first_own_champion_goes_back_to_the_shared_one(
    store, versions, own
):
    change = rollback(store, "acme", **WHO)

    assert change.changed and change.version == "shared"
    assert current(store, "acme") == ("shared", versions[0])
    assert champion.own(store) == {}


def test_a_tenant_that_went_back_to_the_shared_model_can_be_promoted_again(store, own):
    rollback(store, "acme", **WHO)

    promote(store, "acme", own, run="run-1", **WHO)

    assert champion.own(store) == {"acme": own}


def test_a_pinned_tenant_is_answered_by_each_shared_champion(store, versions, own):
    policy.pin(store, "acme", **WHO)
    crown(store, versions[1])

    assert current(store, "acme") == ("shared", versions[1])
    assert policy.read_policy(store, "acme")["state"] == "pinned"


def test_a_paused_tenant_keeps_its_version_of_the_shared_model(store, versions):
    crown(store, versions[0])
    policy.pause(store, "globex", **WHO)
    crown(store, versions[1])
    crown(store, versions[2])

    pruned = prune(store, "shared", keep=1)

    assert current(store, "globex") == ("shared", versions[0])
    assert versions[0] not in pruned
    assert champion.own(store) == {}


def test_a_paused_tenant_that_is_resumed_follows_the_shared_champion(store, versions):
    crown(store, versions[0])
    policy.pause(store, "globex", **WHO)
    crown(store, versions[1])

    policy.resume(store, "globex", **WHO)

    assert current(store, "globex") == ("shared", versions[1])
    assert policy.read_policies(store) == {}


def test_a_tenant_that_is_neither_pinned_nor_paused_cannot_be_resumed(store, versions):
    crown(store, versions[0])

    with pytest.raises(UserError, match="neither pinned nor paused"):
        policy.resume(store, "globex", **WHO)


def test_the_shared_champion_does_not_answer_a_private_tenant(store, versions, own):
    assert current(store, "globex", private=["globex", "acme"]) is None
    assert current(store, "acme", private=["globex", "acme"]) == ("acme", own)


def test_a_broken_pointer_of_one_tenant_hides_no_others_champion(store, versions, own):
    store.champion("globex").parent.mkdir()
    store.champion("globex").write_text("{brok")

    assert champion.own(store) == {"acme": own}
