"""A project's version of the library, and the versions of everything else that it installs."""

from jollyboat.upgrade.check import check_store
from jollyboat.upgrade.install import upgrade
from jollyboat.upgrade.requirements import write_requirements

__all__ = ["check_store", "upgrade", "write_requirements"]
