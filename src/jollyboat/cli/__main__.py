"""`python -m jollyboat.cli` is the command `jollyboat`."""

from jollyboat.cli.main import main

if __name__ == "__main__":  # a server's workers import this file too
    main()
