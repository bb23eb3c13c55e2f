"""`python -m serving.ask`: start the server, ask it for one prediction, print the answer, stop it."""

import json
import sys
import time

from rails.bundle import open_bundle
from rails.champion import POOLED, current
from rails.errors import Refused
from rails.store import default_store
from serving.smoke import running_server


def main() -> int:
    """One question to the pooled champion's server; 1 with a sentence where there is no answer."""
    began = time.monotonic()
    store = default_store()
    champion = current(store, POOLED)
    if champion is None:
        print("There is no champion to ask: `make deploy` makes one.", file=sys.stderr)
        return 1
    try:
        sample = open_bundle(store.bundle(*champion)).sample
        with running_server() as server:
            status, answer = server.call("POST", "/predict", json.dumps(sample["request"]))
    except Refused as refusal:
        print(refusal, file=sys.stderr)
        return 1
    print("POST /predict", json.dumps(sample["request"]))
    print(status, json.dumps(answer))
    print(
        f"ask: probability {answer['probability']:.3f} from {answer['model_version']}; {time.monotonic() - began:.1f} s"
    )
    return 0 if status == 200 else 1


if __name__ == "__main__":
    sys.exit(main())
