"""`python -m prismrec`: the same as the `prismrec` command."""

from prismrec.cli import main

if __name__ == "__main__":
    main()
