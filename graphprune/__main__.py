"""`python -m graphprune`."""

from graphprune.cli import main

if __name__ == "__main__":
    main()
