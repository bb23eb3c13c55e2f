"""Takes a project to a cluster: its flows compiled by Metaflow, and manifests of its server."""

FLOWS = ("data", "train", "deploy", "score", "monitor")  # each starts when the one before has ended
