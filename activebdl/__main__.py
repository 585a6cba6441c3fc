"""``python -m activebdl`` is ``activebdl``."""

from activebdl.cli import main

main()
