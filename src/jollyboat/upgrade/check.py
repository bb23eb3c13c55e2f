"""Whether this version of the library reads what another one left below data/."""

from collections.abc import Iterator
from contextlib import closing

from jollyboat.store import Store, UserError


def check_store(store: Store) -> Iterator[str]:
    """A sentence for each champion, and for each file that this version cannot read."""
    from jollyboat.bundles.bundle import open_bundle
    from jollyboat.bundles.model import LoadedModel
    from jollyboat.serving.project_state import read_state

    present = read_state(store)
    yield from (" ".join(sentence.split()) for sentence in present["troubles"].values())
    states = [(store, present), *((one["store"], one["state"]) for one in present["others"])]
    champions = [
        (within, owner, steps[0]["version"])
        for within, state in states
        for owner, steps in state["champions"].items()
    ]
    for within, owner, version in champions:
        about = f" for {within.question}" if within.question else ""
        try:
            with closing(LoadedModel(open_bundle(within.bundle(owner, version)))):
                yield f"The model {version} of {owner}{about} answers its sample as before."
        except UserError as refusal:
            reason = " ".join(str(refusal).split())
            yield f"The model {version} of {owner}{about} no longer serves: {reason}"
