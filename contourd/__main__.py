"""``python -m contourd``: whatever lies in the folder in which it is started is not run."""

import os
import sys

if __name__ == "__main__":
    # Python puts that folder before its library; it stays where contourd itself lies in it.
    if not sys.flags.safe_path and sys.path[0] != __file__.rsplit(os.sep, 2)[0]:
        del sys.path[0]
    from contourd.cli import main

    main()
