"""``python -m gearshift`` is the ``gearshift`` command of that interpreter."""

from .cli import main

if __name__ == "__main__":
    main()
