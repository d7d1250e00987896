"""The questions that the chart's dashboards answer: fleet, energy, objectives, planner.

Its own module because these are what people change; how Grafana wants them is
`scripts.grafana_dashboard`'s. Every metric here is checked against the program's.
"""

from __future__ import annotations

from scripts.grafana_dashboard import TARGET, Dashboard, Panel, quantile, rate, written

VARIANT, CLASS = "jouleserve_variant", "jouleserve_service_class"
REPLICA, STATE, OUTCOME = "jouleserve_replica", "jouleserve_state", "jouleserve_outcome"
GROUP, SUBJECT = "jouleserve_node_group", "jouleserve_subject"
REQUESTS = "jouleserve_requests_total"
TOKENS = "gen_ai_client_token_usage_sum"
WRITTEN, READ = '{gen_ai_token_type="output"}', '{gen_ai_token_type="input"}'
TTFT = "gen_ai_server_time_to_first_token_seconds"
TPOT = "gen_ai_server_time_per_output_token_seconds"
DURATION = "gen_ai_server_request_duration_seconds"
ENERGY = "jouleserve_energy_j_joules"
REPLICA_ENERGY = "jouleserve_replica_energy_j_joules_total"
IDLE_ENERGY = "jouleserve_idle_energy_j_joules_total"
TENANT_ENERGY = "jouleserve_tenant_energy_j_joules_total"
TENANT_EMISSIONS = "jouleserve_tenant_emissions_g_grams_total"
RESIDUAL = "jouleserve_energy_residual_j_joules"
POWER = "jouleserve_power_w_watts"
PREDICTED, BOUND = "jouleserve_plan_predicted_w_watts", "jouleserve_plan_bound_w_watts"
JUDGED, MISSED = '{jouleserve_objectives=~"met|missed"}', '{jouleserve_objectives="missed"}'
BUDGET = 1 - TARGET
WARN, BAD = "yellow", "red"


def _shown(label: str) -> str:
    return f"{{{{{label}}}}}"


def _missed(window: str) -> str:
    """Give the query of the share of requests beyond their objectives, by service class."""
    judged = f"sum by ({CLASS}) (rate({REQUESTS}{JUDGED}[{window}]))"
    missed = f"sum by ({CLASS}) (rate({REQUESTS}{MISSED}[{window}]))"
    return f"({missed} or 0 * {judged}) / {judged}"


def _burn(window: str) -> str:
    return f"({_missed(window)}) / {BUDGET:.2g}"


FLEET = Dashboard(
    "fleet",
    "fleet",
    "What comes, what serves it, and what is wrong.",
    (
        Panel(
            "Requests",
            "reqps",
            {"": rate(REQUESTS)},
            "That have ended, however they did.",
            width=4,
            height=4,
            kind="stat",
        ),
        Panel(
            "Generated tokens",
            "short",
            {"": rate(TOKENS, where=WRITTEN)},
            "A second, over all models.",
            width=4,
            height=4,
            kind="stat",
        ),
        Panel(
            "Running",
            "short",
            {"": "sum(jouleserve_running_requests)"},
            "Requests in the engines' batches now.",
            width=4,
            height=4,
            kind="stat",
        ),
        Panel(
            "Waiting",
            "short",
            {"": "sum(jouleserve_waiting_requests)"},
            "Requests that replicas have accepted and no place in their batch for.",
            width=4,
            height=4,
            kind="stat",
        ),
        Panel(
            "Power",
            "watt",
            {"": f"sum({POWER})"},
            "Of all replicas: measured where there is a meter, else by the model.",
            width=4,
            height=4,
            kind="stat",
        ),
        Panel(
            "Troubles",
            "short",
            {"": f"count(max by ({SUBJECT}) (jouleserve_trouble)) or vector(0)"},
            "`jouleserve status` says what is wrong, and why.",
            width=4,
            height=4,
            kind="stat",
            limits=((1, BAD),),
        ),
        Panel(
            "How do requests end?",
            "reqps",
            {_shown(OUTCOME): rate(REQUESTS, OUTCOME)},
            "Rejected is refused before a replica was chosen; cancelled is left by its client.",
            stacked=True,
        ),
        Panel(
            "Of what kind are the faults?",
            "reqps",
            {_shown("error_type"): rate(REQUESTS, "error_type", '{error_type!=""}')},
            "overloaded and no_replica want more replicas; invalid_request_error is the clients'.",
            stacked=True,
        ),
        Panel(
            "Which variants write?",
            "short",
            {_shown(VARIANT): rate(TOKENS, VARIANT, WRITTEN)},
            "Generated tokens a second.",
            stacked=True,
        ),
        Panel(
            "How full are the batches?",
            "short",
            {
                f"{_shown(VARIANT)} running": f"sum by ({VARIANT}) (jouleserve_running_requests)",
                f"{_shown(VARIANT)} waiting": f"sum by ({VARIANT}) (jouleserve_waiting_requests)",
            },
            "Requests in the engines; those that wait make the first token late.",
        ),
        Panel(
            "How full are the KV caches?",
            "percentunit",
            {_shown(REPLICA): "jouleserve_kv_cache_usage"},
            "Share of blocks in use; near 1 the engine preempts requests.",
            limits=((0.9, WARN), (0.98, BAD)),
            most=1.0,
        ),
        Panel(
            "How much of the prompts is known already?",
            "percentunit",
            {
                _shown(VARIANT): (
                    f"{rate('jouleserve_cached_tokens_total', VARIANT)}"
                    f" / {rate(TOKENS, VARIANT, READ)}"
                )
            },
            "Share of prompt tokens found in a prefix cache.",
            most=1.0,
        ),
        Panel(
            "What is in trouble?",
            "short",
            {_shown(SUBJECT): f"max by ({SUBJECT}) (jouleserve_trouble)"},
            "1 while something is wrong.",
        ),
        Panel(
            "Do gateways let go of what ended?",
            "short",
            {_shown("jouleserve_gateway"): "jouleserve_leases"},
            "Leases held; one that stays when nothing is in flight is a fault of the program.",
        ),
    ),
)

ENERGY_PAGE = Dashboard(
    "energy",
    "energy",
    "Where the joules go, and whether the books are right.",
    (
        Panel(
            "Of a generated token",
            "joule",
            {"": f"{rate(f'{ENERGY}_sum')} / {rate(TOKENS, where=WRITTEN)}"},
            "Attributed to requests, over tokens that they generated.",
            width=6,
            height=4,
            kind="stat",
        ),
        Panel(
            "Of a request",
            "joule",
            {"": f"{rate(f'{ENERGY}_sum')} / {rate(f'{ENERGY}_count')}"},
            "The mean.",
            width=6,
            height=4,
            kind="stat",
        ),
        Panel(
            "Power over the bound",
            "percentunit",
            {"": f"sum({POWER}) / max({BOUND})"},
            "No plan for the same demands could draw less than the bound: 100 % is the best.",
            width=6,
            height=4,
            kind="stat",
        ),
        Panel(
            "Books and meters differ by",
            "percentunit",
            {"": f"sum(abs({RESIDUAL})) / sum({REPLICA_ENERGY})"},
            "Of all energy since the replicas started; more than 0.5 % is a fault.",
            width=6,
            height=4,
            kind="stat",
            limits=((0.002, WARN), (0.005, BAD)),
        ),
        Panel(
            "What does a token of each variant cost?",
            "joule",
            {
                _shown(VARIANT): (
                    f"{rate(f'{ENERGY}_sum', VARIANT)} / {rate(TOKENS, VARIANT, WRITTEN)}"
                )
            },
            "A fuller batch makes tokens cheaper; so does a smaller variant.",
        ),
        Panel(
            "Who draws the power?",
            "watt",
            {
                _shown(VARIANT): f"sum by ({VARIANT}) ({POWER})",
            },
            "Recent means of the replicas.",
            stacked=True,
        ),
        Panel(
            "Is it what was planned?",
            "watt",
            {
                "drawn": f"sum({POWER})",
                "planned": f"max({PREDICTED})",
                "least that could serve": f"max({BOUND})",
            },
            "Nodes' own power is in the plan, and in no replica's meter.",
        ),
        Panel(
            "How much is used by nobody?",
            "percentunit",
            {
                _shown(VARIANT): f"{rate(IDLE_ENERGY, VARIANT)} / {rate(REPLICA_ENERGY, VARIANT)}",
            },
            "Energy of replicas between their steps; fewer of them would waste less.",
            most=1.0,
        ),
        Panel(
            "What do requests of each class cost?",
            "joule",
            {
                f"{_shown(CLASS)} half": quantile(0.5, ENERGY, CLASS),
                f"{_shown(CLASS)} 99 %": quantile(0.99, ENERGY, CLASS),
            },
            "Half of the requests, and all but one in a hundred, cost less.",
        ),
        Panel(
            "Which tenants use the most?",
            "watt",
            {_shown("jouleserve_tenant"): f"topk(10, {rate(TENANT_ENERGY, 'jouleserve_tenant')})"},
            "Energy a second of all their requests, finished or not; without a name, of nobody in"
            " particular.",
            stacked=True,
        ),
        Panel(
            "How much carbon is that?",
            "massg",
            {
                "a minute": f"60 * {rate(TENANT_EMISSIONS)}",
            },
            "CO2 equivalent a minute, where a carbon intensity is known.",
        ),
        Panel(
            "Which meters are lost?",
            "short",
            {_shown(REPLICA): "jouleserve_meter_lost"},
            "1 while a replica's meter cannot be read: its energy is the model's meanwhile.",
            limits=((1, BAD),),
        ),
    ),
)

OBJECTIVES = Dashboard(
    "slo",
    "objectives",
    f"Whether promises are kept: {TARGET:.0%} of the requests within their own objectives.",
    (
        Panel(
            "Kept in the last hour",
            "percentunit",
            {
                _shown(CLASS): f"1 - {_missed('1h')}",
            },
            "Share of requests within their objectives, by service class; those that clients gave"
            " up or got wrong do not count.",
            width=12,
            height=5,
            kind="stat",
            most=1.0,
        ),
        Panel(
            "Error budget burns at",
            "short",
            {
                f"{_shown(CLASS)} 5 min": _burn("5m"),
                f"{_shown(CLASS)} 1 h": _burn("1h"),
            },
            "At 1 the budget of 30 days lasts as long; at 14.4 a fiftieth of it is gone in an"
            " hour.",
            width=12,
            height=5,
            kind="stat",
            limits=((1, WARN), (14.4, BAD)),
        ),
        Panel(
            "How fast does the error budget burn?",
            "short",
            {
                f"{_shown(CLASS)} 5 min": _burn("5m"),
                f"{_shown(CLASS)} 1 h": _burn("1h"),
                f"{_shown(CLASS)} 6 h": _burn("6h"),
            },
            "Alerts fire at 14.4 over an hour and at 6 over six.",
            width=24,
            limits=((6, WARN), (14.4, BAD)),
        ),
        Panel(
            "When does the first token come?",
            "s",
            {
                f"{_shown(CLASS)} half": quantile(0.5, TTFT, CLASS),
                f"{_shown(CLASS)} 99 %": quantile(0.99, TTFT, CLASS),
            },
            "From the arrival of a request at a gateway.",
        ),
        Panel(
            "How long does each further token take?",
            "s",
            {
                f"{_shown(CLASS)} half": quantile(0.5, TPOT, CLASS),
                f"{_shown(CLASS)} 99 %": quantile(0.99, TPOT, CLASS),
            },
            "The mean of each request.",
        ),
        Panel(
            "How long do requests take?",
            "s",
            {
                f"{_shown(CLASS)} half": quantile(0.5, DURATION, CLASS),
                f"{_shown(CLASS)} 99 %": quantile(0.99, DURATION, CLASS),
            },
            "From arrival to the last token, of those that were completed.",
        ),
        Panel(
            "Which variants are late?",
            "percentunit",
            {
                _shown(VARIANT): (
                    f"{rate(REQUESTS, VARIANT, MISSED)} / {rate(REQUESTS, VARIANT, JUDGED)}"
                )
            },
            "Share of requests beyond their objectives.",
            most=1.0,
        ),
    ),
)

PLANNER = Dashboard(
    "planner",
    "planner",
    "What is planned, how far it has come, and what could be better.",
    (
        Panel(
            "Age of the plan",
            "s",
            {"": "min(jouleserve_plan_age_s_seconds)"},
            "A plan is made every `planner.period_s`.",
            width=6,
            height=4,
            kind="stat",
            limits=((60, WARN), (300, BAD)),
        ),
        Panel(
            "Planned power",
            "watt",
            {"": f"max({PREDICTED})"},
            "The mean that the plan would draw, by the model.",
            width=6,
            height=4,
            kind="stat",
        ),
        Panel(
            "Least that could serve",
            "watt",
            {"": f"max({BOUND})"},
            "No plan for the same demands can draw less.",
            width=6,
            height=4,
            kind="stat",
        ),
        Panel(
            "Draining",
            "short",
            {"": 'sum(jouleserve_plan_replicas{jouleserve_state="draining"})'},
            "Replicas that take no new work and finish what they have.",
            width=6,
            height=4,
            kind="stat",
        ),
        Panel(
            "Are there as many replicas as wanted?",
            "short",
            {
                f"{_shown(VARIANT)} {_shown(STATE)}": (
                    f"sum by ({VARIANT}, {STATE}) (jouleserve_plan_replicas)"
                )
            },
            "wanted is the plan's; awake, starting and draining are what there is.",
        ),
        Panel(
            "Are there as many nodes as wanted?",
            "short",
            {
                f"{_shown(GROUP)} {_shown(STATE)}": (
                    f"max by ({GROUP}, {STATE}) (jouleserve_plan_nodes)"
                )
            },
            "booting nodes that never become ready are named among the troubles.",
        ),
        Panel(
            "How good is the plan?",
            "percentunit",
            {"planned over bound": f"max({PREDICTED}) / max({BOUND})"},
            "1 cannot be better; what is above is whole replicas and patience.",
        ),
        Panel(
            "What would candidates save?",
            "percentunit",
            {
                f"{_shown(VARIANT)} {_shown(STATE)}": (
                    f"max by ({VARIANT}, {STATE}) (jouleserve_plan_candidate_saving)"
                )
            },
            "Share of power; `jouleserve plan` lists what is proposed.",
        ),
    ),
)

DASHBOARDS = (FLEET, ENERGY_PAGE, OBJECTIVES, PLANNER)


def dashboards() -> dict[str, str]:
    """Give every dashboard's text, by the name of its file."""
    return {f"{each.name}.json": written(each) for each in DASHBOARDS}
