"""``python -m archspec``: the command line, without needing the console script on the path."""

from archspec.commands import main

if __name__ == "__main__":
    main()
