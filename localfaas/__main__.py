"""Run localfaas as `python -m localfaas`."""

from localfaas.cli import main

if __name__ == "__main__":
    main()
