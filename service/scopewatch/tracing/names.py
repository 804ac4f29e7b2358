"""The names that spans, their attributes and their events have: one place to follow the conventions when they change.

Names of RPC and errors are those of the stable semantic conventions 1.45 of OpenTelemetry. Those of the event
`gen_ai.evaluation.result` come from the conventions for generative AI, which are in development
(github.com/open-telemetry/semantic-conventions-genai, model/gen-ai/events.yaml), and so may change. What begins with
`scopewatch.` is ours.
"""

RPC_SYSTEM = "rpc.system.name"
RPC_METHOD = "rpc.method"
"""Service and method, as `scopewatch.v1.MonitorService/Score`."""
RPC_STATUS = "rpc.response.status_code"
"""The name of the status, as `OK` or `DEADLINE_EXCEEDED`."""
HTTP_METHOD = "http.request.method"
HTTP_ROUTE = "http.route"
ERROR_TYPE = "error.type"

EVALUATION = "gen_ai.evaluation.result"
"""The event that tells what one indicator says of a pair."""
EVALUATION_NAME = "gen_ai.evaluation.name"
EVALUATION_SCORE = "gen_ai.evaluation.score.value"
EVALUATION_LABEL = "gen_ai.evaluation.score.label"
"""`flag` where the score is above the indicator's threshold, else `pass`."""

PAIR = "pair"
"""The span of a pair; the spans below it have the names of the stages."""
PAIRS = "scopewatch.pairs"
"""How many pairs of a call got a verdict or an error behind the door."""
PAIRS_LEFT_OUT = "scopewatch.pairs_left_out"
"""How many of them have no span of their own."""
REQUEST_ID = "scopewatch.request_id"
CALLER = "scopewatch.caller"
WATCHLIST = "scopewatch.watchlist"
WATCHLIST_DIGEST = "scopewatch.watchlist.digest"
VERDICT = "scopewatch.verdict"
CACHED = "scopewatch.cached"
TOKENS = "scopewatch.tokens"
WINDOWS = "scopewatch.windows"
