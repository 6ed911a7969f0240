"""Photos by Replicate, over its own Python client (replicate 1.0.7)."""

import base64
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import BytesIO
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import httpx
import structlog
from replicate.client import Client

from shared.settings import Settings
from worker.predictor import Gone, Never, NotYet, Prediction, PredictionOrder, PredictionState, RequestKind, Unknown
from worker.replicate_answers import moment, prediction_from
from worker.replicate_http import Refused, SingleShotTransport, json_object
from worker.replicate_models import model_named
from worker.replicate_outputs import OutputReader

DATA_URL_MAX_CHARS = 256_000  # larger portraits are uploaded first (API reference: data URLs up to 256 kB)
CLOCK_SKEW = timedelta(seconds=10)  # between our clock and the vendor's, when looking for a lost prediction
# A create call ends within seconds; one that a stopped process sent later than this is looked for no more.
SEARCH_WINDOW = timedelta(minutes=10)
OPERATOR_WAIT_SECONDS = 30.0  # until somebody has mended the account

# What to do about a refusal that concerns the account and not the order.
_ACCOUNT_REFUSALS = {
    401: "check REPLICATE_API_TOKEN",
    402: "add credit at https://replicate.com/account/billing",
    403: "check what the account behind REPLICATE_API_TOKEN may run",
}
# Raised before a byte of the request is on its way (httpx: connecting, TLS and waiting for a free connection).
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)

log = structlog.get_logger()


class ReplicatePredictor:
    """The `Predictor` over Replicate's HTTP API.

    Requests go through the client's `_request`: its public calls give a create no timeout at all, cannot send
    Cancel-After, raise on the documented status `aborted`, and hide `data_removed` (all read and measured in 1.0.7,
    which is pinned). No request is ever repeated here; the sweep asks again.

    A lost prediction is known by its seed, in the list or where a webhook names it. A model without one is matched by
    the attempt id in the webhook address, which the single prediction shows but a list result may lack; if neither
    shows it, the answer is `NotYet`, never "there is none".

    Attributes:
        limits: what the `ratelimit-*` headers last said, by kind of request.

    Both hooks are called on the calling thread: `on_limits` with every answer's `ratelimit-*` headers, of which there
    may be none, then `on_throttled` for a 429 with the seconds to wait and the lowered limit, where it names one, as
    requests per minute and burst.
    """

    name = "replicate"

    def __init__(
        self,
        settings: Settings,
        on_limits: Callable[[RequestKind, Mapping[str, str]], None] | None = None,
        on_throttled: Callable[[RequestKind, float, tuple[float, int] | None], None] | None = None,
    ) -> None:
        """Opens no connection. Raises ValueError for a model that is not in worker/replicate_models.py."""
        self._model = model_named(settings.replicate_model)
        self.model = self._model.name
        self.limits: dict[RequestKind, Mapping[str, str]] = {}
        self._on_limits, self._on_throttled = on_limits, on_throttled
        self._complained: set[int] = set()
        # Before one lease ends, an upload and the create after it must, or a fetch and the download after it.
        self._call_seconds = min(8.0, settings.lease_seconds / 2)
        self._upload_seconds = min(4.0, settings.lease_seconds / 4)
        self._fetch_seconds = min(5.0, settings.lease_seconds / 3)
        # Past the job's deadline nobody wants the photo: the vendor then stops it by itself (Cancel-After).
        self._cancel_after = f"{min(max(settings.job_deadline_seconds, 5), 86_400)}s"
        connections = settings.worker_threads + 4
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        tls = httpx.create_ssl_context()  # takes 40 ms to build, so both connections share it
        wire = SingleShotTransport(httpx.HTTPTransport(verify=tls, limits=limits), self._note_limits)
        token = settings.replicate_api_token
        # An empty token would make the client look for one in the environment on its own.
        secret = (token.get_secret_value().strip() if token else "") or "unset"
        self._base_url = settings.replicate_base_url.rstrip("/")
        self._client = Client(api_token=secret, base_url=self._base_url, transport=wire)
        _ = self._client._client  # built lazily without a lock: build it before threads share it
        self._outputs = OutputReader(
            settings.replicate_output_hosts,
            self._base_url,
            total_seconds=min(8.0, settings.lease_seconds / 2),
            limits=limits,
            tls=tls,
        )
        if not self._model.takes_seed and not settings.replicate_webhook_secrets:
            log.warning("replicate.lost_predictions_unfindable", model=self.model, todo="set REPLICATE_WEBHOOK_SECRETS")

    def __repr__(self) -> str:
        return f"ReplicatePredictor({self.model} at {self._base_url})"

    def start(self, order: PredictionOrder) -> Prediction | NotYet | Never | Unknown:
        """Create one prediction; what the order's calls raise passes through, before anything was paid for."""
        portrait = self._portrait_address(order)
        if not isinstance(portrait, str):
            return portrait
        # Counted from before the lease is renewed: a process that stands still in between sends nothing afterwards.
        until = self._in(self._call_seconds)
        order.before_paying()
        body: dict[str, Any] = {"input": self._model.input_for(order.prompt, portrait, order.seed)}
        if order.webhook_url:
            body |= {"webhook": order.webhook_url, "webhook_events_filter": ["completed"]}
        try:
            answer = self._request(
                "POST",
                f"/v1/models/{self.model}/predictions",
                until,
                json=body,
                headers={"Cancel-After": self._cancel_after},
            )
            self._complained.clear()
            return prediction_from(answer, self._model)
        except Refused as refused:
            return self._refused_create(refused)
        except _NOT_SENT as error:
            return NotYet(2.0, f"could not connect: {type(error).__name__}")
        except (httpx.HTTPError, ValueError) as error:
            return Unknown(f"the answer to the create was lost: {type(error).__name__}")

    def fetch(self, prediction_id: str) -> Prediction | NotYet | Gone:
        return self._fetch(prediction_id, self._in(self._fetch_seconds))

    def _fetch(self, prediction_id: str, until: float) -> Prediction | NotYet | Gone:
        try:
            answer = self._request("GET", f"/v1/predictions/{prediction_id}", until)
            prediction = prediction_from(answer, self._model)
        except Refused as refused:
            if refused.status == 404:
                return Gone("the provider does not know this prediction")
            return self._not_yet(refused)
        except (httpx.HTTPError, ValueError) as error:
            return NotYet(2.0, f"no answer: {type(error).__name__}")
        ended_well = answer.get("status") == "succeeded"
        if ended_well and answer.get("data_removed") and not prediction.output:
            cost = prediction.cost_usd or Decimal(0)
            return Gone("its output was deleted, an hour after it was made", cost, prediction.seconds)
        return prediction

    def find(self, attempt_id: UUID, seed: int, created_after: datetime) -> list[Prediction] | NotYet:
        until = self._in(self._call_seconds)
        since = created_after.astimezone(UTC) - CLOCK_SKEW
        query = urlencode({"created_after": _rfc3339(since), "created_before": _rfc3339(since + SEARCH_WINDOW)})
        found: list[Prediction] = []
        undecided = False
        try:
            while query:
                page = self._request("GET", f"/v1/predictions?{query}", until)
                entries = [entry for entry in page.get("results") or [] if isinstance(entry, dict)]
                for entry in entries:
                    fits = self._fits(entry, attempt_id, seed, until)
                    undecided = undecided or fits is None
                    if fits:
                        found.append(prediction_from(entry, self._model))
                times = [at for entry in entries if (at := moment(entry.get("created_at")))]
                # Only the query of `next` is followed, so that our token cannot be led to another host.
                following = httpx.URL(str(page.get("next") or "")).query.decode()
                query = "" if times and min(times) < since else following
        except Refused as refused:
            return self._not_yet(refused)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            return NotYet(2.0, f"no answer: {type(error).__name__}")
        if undecided and not found:
            return NotYet(5.0, "some predictions do not show for which attempt they were made")
        return sorted(found, key=lambda prediction: prediction.created_at)

    def recognise(self, prediction_id: str, attempt_id: UUID, seed: int) -> Prediction | None:
        until = self._in(self._fetch_seconds)
        try:
            entry = self._request("GET", f"/v1/predictions/{prediction_id}", until)
            return prediction_from(entry, self._model) if self._fits(entry, attempt_id, seed, until) else None
        except (Refused, httpx.HTTPError, ValueError):
            return None

    def cancel(self, prediction_id: str) -> Prediction | NotYet | Gone:
        until = self._in(self._call_seconds)
        try:
            answer = self._request("POST", f"/v1/predictions/{prediction_id}/cancel", until)
            prediction = prediction_from(answer, self._model)
        except Refused as refused:
            # What cancel answers for one that has ended is not documented: look at it instead.
            if refused.status in (400, 404, 409, 410, 422):
                return self._fetch(prediction_id, until)
            return self._not_yet(refused)
        except (httpx.HTTPError, ValueError) as error:
            return NotYet(2.0, f"no answer: {type(error).__name__}")
        return self._fetch(prediction_id, until) if prediction.state is not PredictionState.CANCELED else prediction

    def read_output(self, address: str) -> bytes | NotYet | Gone:
        return self._outputs.read(address)

    def probe(self) -> str:
        try:
            account = self._request("GET", "/v1/account", self._in(self._call_seconds))
        except Refused as refused:
            todo = _ACCOUNT_REFUSALS.get(refused.status, "see https://www.replicatestatus.com")
            raise ConnectionError(f"Replicate refused us (HTTP {refused.status}): {todo}") from refused
        except (httpx.HTTPError, ValueError) as error:
            reason = (
                f"{self._base_url} did not answer ({type(error).__name__}): check REPLICATE_BASE_URL and the network"
            )
            raise ConnectionError(reason) from error
        return f"Replicate answered as {account.get('username', 'an unnamed account')}; model {self.model}"

    # --- The wire

    @staticmethod
    def _in(seconds: float) -> float:
        return time.monotonic() + seconds

    def _request(self, method: str, path: str, until: float, **content: Any) -> dict[str, Any]:
        """One request and its JSON object. Raises Refused, httpx.HTTPError, or ValueError for another kind of body."""
        try:
            response = self._client._request(method, path, extensions={"until": until}, **content)
        except Refused as refused:
            if refused.status == 429 and self._on_throttled:
                self._on_throttled(_kind(method, path), refused.retry_after_seconds, refused.reduced_to)
            raise
        body = json_object(response.content)
        if body is None:
            raise ValueError("the answer is no JSON object")
        self._complained.discard(401)
        return body

    def _note_limits(self, request: httpx.Request, headers: httpx.Headers) -> None:
        kind = _kind(request.method, request.url.path)
        said = {name: value for name, value in headers.items() if name.startswith("ratelimit-")}
        if said:
            self.limits[kind] = said
        if self._on_limits:
            self._on_limits(kind, said)

    def _portrait_address(self, order: PredictionOrder) -> str | NotYet | Never:
        """Where the model finds the portrait: the storage's own address, the picture itself, or an upload."""
        if order.portrait_url:
            return order.portrait_url
        portrait = order.read_portrait()
        inline = f"data:image/jpeg;base64,{base64.b64encode(portrait).decode()}"
        if len(inline) <= DATA_URL_MAX_CHARS:
            return inline
        try:
            answer = self._request(
                "POST",
                "/v1/files",
                self._in(self._upload_seconds),
                files={"content": ("portrait.jpg", BytesIO(portrait), "image/jpeg")},
            )
            return str(answer["urls"]["get"])
        except Refused as refused:
            if refused.status in (400, 413, 415, 422):
                return Never("bad_input", refused.detail)
            return self._not_yet(refused)
        except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
            return NotYet(2.0, f"the portrait could not be uploaded: {type(error).__name__}")

    # --- Refusals in our words

    def _refused_create(self, refused: Refused) -> NotYet | Never | Unknown:
        if refused.status >= 500 or refused.status == 408:
            return Unknown(f"the create answered {refused.status}")
        if refused.status == 404 or (refused.status == 422 and "version" in str(refused.body.get("title", "")).lower()):
            log.error("replicate.model_refused", model=self.model, detail=refused.detail, todo="check REPLICATE_MODEL")
            return Never("provider_failed", refused.detail)
        if refused.status in (400, 413, 415, 422):
            return Never("bad_input", refused.detail)
        return self._not_yet(refused)

    def _not_yet(self, refused: Refused) -> NotYet:
        if refused.status == 429:
            return NotYet(refused.retry_after_seconds, refused.detail)
        if todo := _ACCOUNT_REFUSALS.get(refused.status):
            if refused.status not in self._complained:  # once, until a create succeeds again
                self._complained.add(refused.status)
                log.error("replicate.account_refused", status=refused.status, detail=refused.detail, todo=todo)
            return NotYet(OPERATOR_WAIT_SECONDS, refused.detail)
        return NotYet(2.0, refused.detail)

    def _fits(self, entry: Mapping[str, Any], attempt_id: UUID, seed: int, until: float) -> bool | None:
        """Whether this list result was made for the attempt; None when it cannot be told."""
        given = entry.get("input")
        if self._model.takes_seed:
            # Without its input (deleted with the output, or left out of a lean list) nobody can tell.
            return given.get("seed") == seed if isinstance(given, dict) else None
        if "webhook" not in entry and entry.get("model", self.model) == self.model:
            entry = self._request("GET", f"/v1/predictions/{entry.get('id')}", until)
        webhook = entry.get("webhook")
        if webhook is None:
            return None if entry.get("model", self.model) == self.model else False
        return str(attempt_id) in str(webhook)


def _kind(method: str, path: str) -> RequestKind:
    return "create" if method == "POST" and path.endswith("/predictions") else "other"


def _rfc3339(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
