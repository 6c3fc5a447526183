"""The log for others to read, and what policies would have earned on it."""

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import Field

from cluster.settings import PolicyName, Settings
from services.edge.auth import needs
from services.insight import evaluation, export
from services.routing.router import Router
from services.schemas import Wire


class EvaluationBody(Wire):
    """Which policies, and the level of their intervals."""

    policies: list[PolicyName] = Field(default=["linucb", "mlp"], min_length=1)
    level: float = Field(0.95, gt=0.5, lt=1, allow_inf_nan=False)


def add(app: FastAPI, router: Router, settings: Settings) -> None:
    inspects = needs(settings, "inspect")

    @app.post("/v1/evaluate", tags=["inspection"], dependencies=[inspects])
    async def evaluate(body: EvaluationBody) -> list[evaluation.PolicyEvaluation]:
        """What each policy's own choices would have earned on the log, by IPS, SNIPS, DR and replay."""
        return await evaluation.evaluate_apart(settings, router.decider.contexts, body.policies, body.level)

    @app.get("/v1/export", tags=["inspection"], dependencies=[inspects], response_class=StreamingResponse)
    async def export_log() -> StreamingResponse:
        """The log as a Parquet file: decisions with their outcomes, streamed."""
        return StreamingResponse(export.parquet(router.store), media_type=export.MEDIA_TYPE)
