"""`python -m sohes`: the same as the `sohes` command."""

from sohes.cli import main

if __name__ == "__main__":  # a process pool's workers import this module too
    main()
