"""The command group `jouleserve loadtest`, also by `python -m loadtest.loadtest_cli`.

Its own module because those who make load and those who read what came of it each keep their
own commands; here they only get their names.
"""

from __future__ import annotations

import typer

from loadtest import capacity_cli, live_cli, report_cli, scenario_cli

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Put load on a cluster, and read what came of it.",
)
app.command("run")(live_cli.run)
app.command("scenarios")(live_cli.scenarios)
app.command("simulate")(scenario_cli.simulate)
app.command("report")(report_cli.report)
app.command("compare")(report_cli.compare)
app.command("capacity")(capacity_cli.capacity)
app.command("schema")(report_cli.schema)


if __name__ == "__main__":
    app()
