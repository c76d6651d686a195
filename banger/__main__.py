"""`python -m banger` is `banger`."""

from banger.cli import main

main()
