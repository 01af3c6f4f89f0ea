"""`python -m benchmarks.ablations`; the driver is a module of its own, for its processes import it by name."""

from benchmarks.ablations.run import main

if __name__ == "__main__":
    main()
