"""Names of what spans and metrics say of a request.

Its own module because the names are a contract with dashboards, alert rules and whoever reads a
trace: those of OpenTelemetry's conventions for generative AI where they have one, ours elsewhere.
"""

from __future__ import annotations

# https://opentelemetry.io/docs/specs/semconv/gen-ai/
MODEL = "gen_ai.request.model"
OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
RESPONSE_MODEL = "gen_ai.response.model"
REQUEST_ID = "gen_ai.response.id"
FINISH_REASONS = "gen_ai.response.finish_reasons"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105 (tokens of text)
ERROR_TYPE = "error.type"

VARIANT = "jouleserve.variant"
REPLICA = "jouleserve.replica"
GATEWAY = "jouleserve.gateway"
SERVICE_CLASS = "jouleserve.service_class"
OUTCOME = "jouleserve.outcome"
OBJECTIVES = "jouleserve.objectives"
REASON = "jouleserve.reason"
SUBJECT = "jouleserve.subject"
STATE = "jouleserve.state"
TENANT = "jouleserve.tenant"
GROUP = "jouleserve.node_group"
ENERGY_J = "jouleserve.energy_j"
ENERGY_METHOD = "jouleserve.energy.method"
RESUMES = "jouleserve.resumes"
REPLAYED_TOKENS = "jouleserve.replayed_tokens"
TTFT_S = "jouleserve.ttft_s"
TPOT_S = "jouleserve.tpot_s"
# Lists of the same length, best first: what was considered, and how it was scored.
CANDIDATE_REPLICAS = "jouleserve.candidates.replica"
CANDIDATE_VARIANTS = "jouleserve.candidates.variant"
CANDIDATE_SCORES = "jouleserve.candidates.score"
CANDIDATES_EXCLUDED = "jouleserve.candidates.excluded"

PROVIDER_NAME = "jouleserve"
