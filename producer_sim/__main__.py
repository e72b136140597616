"""`python -m producer_sim` is `fraudstream simulate`."""

import typer

from producer_sim.command import simulate

if __name__ == "__main__":
    typer.run(simulate)
