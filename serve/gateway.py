"""The front door: one Ray Serve deployment that speaks gRPC and OpenAI HTTP.

Its own module because it is the shell: it wires the parts of a gateway together and
hands every call to them; any number of gateways can run side by side.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
import uuid
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import grpc
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from grpc_health.v1 import health_pb2

from cluster import telemetry
from cluster.telemetry_attributes import GATEWAY
from cluster.telemetry_metrics import LEASES, observe
from protos.jouleserve.v1 import cluster_pb2, inference_pb2
from scheduler.policies import make_policy
from scheduler.requests import VariantName
from serve import catalogue, grpc_api, plan_status, troubles
from serve.api_keys import ApiKeys
from serve.calls import Call, Journey, Outcome
from serve.config import Config
from serve.dashboard.broadcast import Broadcast
from serve.dashboard.web import INDEX, Dashboard
from serve.dispatcher import Dispatcher
from serve.emissions import grid
from serve.engines import Engines
from serve.errors import JouleserveError, UnattainableError, UnauthenticatedError, known_model
from serve.frontends import load_frontends, openai_routes
from serve.handles import RayEngineHandle, RayPlannerHandle
from serve.http_errors import error_response
from serve.logs import join_serve_log
from serve.membership import MEMBERSHIP
from serve.objectives_met import ObjectivesMet
from serve.observation import observe_books, observer, tracer
from serve.plan_link import PlanLink
from serve.plan_news import GatewayNews, PlanNews
from serve.standing import Standing
from serve.traffic_counts import TrafficCounts

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping

    from ray.serve.grpc_util import RayServegRPCContext
    from ray.serve.handle import DeploymentHandle

    from serve.troubles import Trouble


logger = logging.getLogger("jouleserve.serve")

# How often forgotten leases are looked for.
SWEEP_PERIOD_S = 1.0

SERVICES = ("", "jouleserve.v1.Inference", "jouleserve.v1.Cluster")
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

api = FastAPI(title="Jouleserve")


class Gateway:
    """Ray Serve's ingress: gRPC methods by name, HTTP routes through FastAPI.

    `serve.application` makes it an ingress. The class itself stays as it is here, so
    that Ray pickles it by name: by value, every object of this module would be a copy.
    """

    async def __init__(  # type: ignore[misc]  # Ray Serve awaits constructors.
        self,
        config: dict[str, Any],
        engines: Mapping[str, DeploymentHandle],
        planner: DeploymentHandle | None,
    ) -> None:
        """Load the tokenizers, and link to every replica that runs.

        Args:
            config: of the whole cluster, as JSON.
            engines: the deployment of each variant, by the variant's name.
            planner: its deployment; None where another autoscaler scales.

        """
        join_serve_log()
        self._config = Config.model_validate(config)
        self._name = f"gateway-{uuid.uuid4().hex[:8]}"
        self._exports = telemetry.configure("jouleserve-gateway", gateway=self._name)
        keys = self._config.gateway.api_keys_file
        self._keys = ApiKeys(None if keys is None else Path(keys))
        self._frontends = await asyncio.to_thread(load_frontends, self._config)
        self._variants = await asyncio.to_thread(catalogue.variants, self._config)
        self._engines = Engines(
            self._name,
            self._variants,
            {VariantName(name): RayEngineHandle(handle) for name, handle in engines.items()},
            time.monotonic,
        )
        self._traffic = TrafficCounts(self._variants)
        self._planner = None if planner is None else RayPlannerHandle(planner)
        self._plan = None if self._planner is None else self._plan_link(self._planner)
        models = frozenset(self._frontends)
        self._observer = observer(self._exports, models)
        self._met = ObjectivesMet()
        self._grid = await asyncio.to_thread(grid, self._config.carbon)
        self._dispatcher = Dispatcher(
            self._config,
            self._variants,
            self._engines,
            make_policy(self._config.scheduler.policy),
            Random(),
            time.monotonic,
            self._ended,
            self._traffic,
            _nobody_waits if self._plan is None else self._plan.hurry,
            tracer(self._exports, models),
            self._grid,
        )
        self._openai = openai_routes(
            self._frontends, self._dispatcher.serve, self._config.gateway.max_request_bytes
        )
        self._standing = Standing(
            self._config, self._engines, self._dispatcher, self._met, self._grid, self._plan
        )
        self._dashboard = Dashboard(Broadcast(self._standing.snapshot))
        self._engines.follow(
            MEMBERSHIP, {h.deployment_name: VariantName(v) for v, h in engines.items()}
        )
        self._tasks = [asyncio.create_task(self._sweep(), name="lease sweep")]
        if self._plan is not None:
            self._tasks.append(asyncio.create_task(self._plan.run(), name="planner link"))
        if self._grid is not None:
            self._tasks.append(asyncio.create_task(self._grid.run(), name="carbon intensity"))
        # For metrics, which another thread reads; the planner exports what it finds itself.
        self._found: tuple[Trouble, ...] = ()
        self._news_numbers = itertools.count()
        observe(LEASES, lambda: len(self._engines.leases), {GATEWAY: self._name})
        observe_books(self._dispatcher.books, self._name)
        troubles.observe(lambda: self._found)
        logger.info("gateway %s is ready", self._name)

    def _ended(self, journey: Journey) -> None:
        if self._observer is not None:
            self._observer(journey)
        self._met.ended(journey, time.monotonic())

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_PERIOD_S)
            self._engines.expire()
            self._found = self._standing.own_troubles()

    def _plan_link(self, planner: RayPlannerHandle) -> PlanLink:
        def hear(news: PlanNews) -> None:
            self._engines.know_sleepers(news.sleepers)
            self._engines.coming = news.coming()
            self._engines.permit(news.workers)

        return PlanLink(planner.exchange, self._news, hear)

    def _news(self) -> GatewayNews:
        budgeted = self._config.planner.power_budget_w is not None
        return GatewayNews(
            gateway=self._name,
            number=next(self._news_numbers),
            traffic=self._traffic.totals(),
            held=dict(self._traffic.held),
            waiting=self._engines.waiting(),
            steps={name: each.steps for name, each in self._engines.believed().items()},
            power_w=self._engines.power_w(),
            lost=self._engines.out_of_reach(),
            strained=self._traffic.strained(),
            awake=self._engines.members(),
            busy=self._engines.busy() if budgeted else frozenset(),
        )

    # ── gRPC: jouleserve.v1 ─────────────────────────────────────────────────

    async def Generate(
        self, request: inference_pb2.GenerateRequest, grpc_context: RayServegRPCContext
    ) -> AsyncGenerator[inference_pb2.GenerateResponse, None]:
        """Stream what the model writes; the last message says what it cost."""
        arrived_at_s = time.monotonic()
        try:
            metadata = self._admitted(grpc_context)
            call = await self._call(request, metadata, arrived_at_s)
            async with contextlib.aclosing(self._dispatcher.serve(call)) as items:
                async for item in items:
                    if isinstance(item, Outcome):
                        grpc_api.set_cost(grpc_context, item)
                        yield grpc_api.finish(item, explain=request.explain)
                    else:
                        yield grpc_api.tokens(item)
        except JouleserveError as error:
            grpc_api.set_error(grpc_context, error)

    def _admitted(self, grpc_context: RayServegRPCContext) -> Mapping[str, str]:
        """Give a call's metadata; raises UnauthenticatedError."""
        metadata = dict(grpc_context.invocation_metadata())
        self._keys.check(metadata.get("authorization"))
        return metadata

    async def _call(
        self,
        request: inference_pb2.GenerateRequest,
        metadata: Mapping[str, str],
        arrived_at_s: float,
    ) -> Call:
        grpc_api.check(request, self._config.gateway.max_request_bytes)
        frontend = known_model(request.model, self._frontends)
        wishes, sampling = grpc_api.wishes(request), grpc_api.sampling(request)
        frontend.encode_sampling(sampling, 1)
        return Call(
            request_id=request.request_id or uuid.uuid4().hex,
            model=request.model,
            prompt_token_ids=await grpc_api.rendered(request, frontend),
            max_tokens=grpc_api.max_tokens(request),
            sampling=lambda max_tokens: frontend.encode_sampling(sampling, max_tokens),
            wishes=wishes,
            arrived_at_s=arrived_at_s,
            trace_headers=grpc_api.trace_headers(metadata),
            resume=grpc_api.resume(request),
            operation="chat" if request.HasField("chat") else "text_completion",
        )

    async def ListModels(
        self, request: inference_pb2.ListModelsRequest, grpc_context: RayServegRPCContext
    ) -> inference_pb2.ListModelsResponse:
        """The models with their variants, objectives and awake replicas."""
        try:
            self._admitted(grpc_context)
            return self._standing.models()
        except JouleserveError as error:
            grpc_api.set_error(grpc_context, error)
            return inference_pb2.ListModelsResponse()

    async def GetStatus(
        self, request: cluster_pb2.GetStatusRequest, grpc_context: RayServegRPCContext
    ) -> cluster_pb2.GetStatusResponse:
        """Replicas, leases and counts as this gateway knows them."""
        try:
            self._admitted(grpc_context)
        except JouleserveError as error:
            grpc_api.set_error(grpc_context, error)
            return cluster_pb2.GetStatusResponse()
        return self._standing.status(request.decisions)

    async def GetPlan(
        self, request: cluster_pb2.GetPlanRequest, grpc_context: RayServegRPCContext
    ) -> cluster_pb2.GetPlanResponse:
        """What is planned, and why; with `dry_run`, what would be planned now."""
        try:
            self._admitted(grpc_context)
            if self._planner is None or self._plan is None:
                raise UnattainableError(
                    "this cluster is not planned: planner.autoscaler is queue_based"
                )
            if not request.dry_run:
                return plan_status.response(self._plan.latest)
            proposed = await self._planner.propose()
            latest = self._plan.latest
            return plan_status.response(replace(latest, planned=proposed, age_s=0.0))
        except JouleserveError as error:
            grpc_api.set_error(grpc_context, error)
            return cluster_pb2.GetPlanResponse()

    # ── gRPC: grpc.health.v1 ────────────────────────────────────────────────

    async def Check(
        self, request: health_pb2.HealthCheckRequest, grpc_context: RayServegRPCContext
    ) -> health_pb2.HealthCheckResponse:
        """SERVING while every model has an awake replica, or one that can be woken."""
        if request.service not in SERVICES:
            grpc_context.set_code(grpc.StatusCode.NOT_FOUND)
            grpc_context.set_details(f"no service {request.service!r}")
        return health_pb2.HealthCheckResponse(status=self._health())

    async def Watch(
        self, request: health_pb2.HealthCheckRequest
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The same, again whenever it changes."""
        told = None
        while True:
            health = self._health() if request.service in SERVICES else UNKNOWN
            if health != told:
                told = health
                yield health_pb2.HealthCheckResponse(status=health)
            await asyncio.sleep(SWEEP_PERIOD_S)

    def _health(self) -> health_pb2.HealthCheckResponse.ServingStatus:
        return NOT_SERVING if self._standing.unserved() else SERVING

    # ── HTTP ────────────────────────────────────────────────────────────────

    @api.get("/health")
    async def health(self) -> Response:
        """200 while every model has an awake replica or one that can be woken, else 503."""
        serving = self._health() == SERVING
        return JSONResponse({"serving": serving}, status_code=200 if serving else 503)

    @api.get("/v1/models")
    async def models(self, raw: Request) -> Response:
        """OpenAI's list of models."""
        if refusal := self._refused(raw):
            return refusal
        return JSONResponse(
            {
                "object": "list",
                "data": [
                    {
                        "id": model.name,
                        "object": "model",
                        "owned_by": "jouleserve",
                        "max_model_len": max(v.max_context_tokens for v in model.variants),
                        "variants": [variant.name for variant in model.variants],
                    }
                    for model in self._config.models
                ],
            }
        )

    @api.post("/v1/chat/completions")
    async def chat(self, raw: Request) -> Response:
        """OpenAI's chat completions."""
        if refusal := self._refused(raw):
            return refusal
        return await self._openai.chat(raw) if self._openai else _no_openai()

    @api.post("/v1/completions")
    async def completion(self, raw: Request) -> Response:
        """OpenAI's completions."""
        if refusal := self._refused(raw):
            return refusal
        return await self._openai.completion(raw) if self._openai else _no_openai()

    @api.get("/dashboard", include_in_schema=False)
    async def dashboard(self, raw: Request) -> Response:
        """The page; it tells nothing, and asks for a key where one is needed."""
        return self._dashboard.file(INDEX, raw.headers)

    @api.get("/dashboard/events", include_in_schema=False)
    async def dashboard_events(self, raw: Request) -> Response:
        """What the page shows, each second."""
        return self._refused(raw) or self._dashboard.events()

    @api.get("/dashboard/{name}", include_in_schema=False)
    async def dashboard_file(self, name: str, raw: Request) -> Response:
        """What the page is made of."""
        return self._dashboard.file(name, raw.headers)

    def _refused(self, raw: Request) -> Response | None:
        """Give the answer to whoever shows no key."""
        try:
            self._keys.check(raw.headers.get("authorization"))
        except UnauthenticatedError as error:
            return error_response(error)
        return None

    async def __del__(self) -> None:
        """Leave every replica; Ray Serve calls this when the drain is over."""
        for task in self._tasks:
            task.cancel()
        self._engines.close()
        self._dashboard.close()
        await asyncio.to_thread(self._exports.shutdown)


def _nobody_waits() -> None:
    """There is no planner to be told."""


def _no_openai() -> Response:
    message = "no model here has a checkpoint, so there is no tokenizer for text; use gRPC"
    return error_response(UnattainableError(message))
