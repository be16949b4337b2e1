"""``python -m contourd``."""

from contourd.cli import main

if __name__ == "__main__":
    main()
