"""Run the command line with `python -m streamscalar`."""

from streamscalar.cli import main

if __name__ == "__main__":
    main()
