"""The command group `jouleserve loadtest`, also by `python -m loadtest.commands.loadtest`.

Its own module because those who make load and those who read what came of it each keep their
own commands; here they only get their names.
"""

from __future__ import annotations

import typer

from loadtest.commands import capacity, live, report, scenarios

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Put load on a cluster, and read what came of it.",
)
app.command("run")(live.run)
app.command("scenarios")(live.scenarios)
app.command("simulate")(scenarios.simulate)
app.command("report")(report.report)
app.command("compare")(report.compare)
app.command("capacity")(capacity.capacity)
app.command("schema")(report.schema)


if __name__ == "__main__":
    app()
