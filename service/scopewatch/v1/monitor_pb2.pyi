from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_PASS: _ClassVar[Verdict]
    VERDICT_FLAG: _ClassVar[Verdict]
    VERDICT_INCOMPLETE: _ClassVar[Verdict]

class Severity(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SEVERITY_UNSPECIFIED: _ClassVar[Severity]
    SEVERITY_INFO: _ClassVar[Severity]
    SEVERITY_LOW: _ClassVar[Severity]
    SEVERITY_MEDIUM: _ClassVar[Severity]
    SEVERITY_HIGH: _ClassVar[Severity]

class Segment(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SEGMENT_UNSPECIFIED: _ClassVar[Segment]
    SEGMENT_PROMPT: _ClassVar[Segment]
    SEGMENT_RESPONSE: _ClassVar[Segment]
    SEGMENT_HISTORY: _ClassVar[Segment]

class Relation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RELATION_UNSPECIFIED: _ClassVar[Relation]
    RELATION_SAME_MODEL: _ClassVar[Relation]
    RELATION_READER_MODEL: _ClassVar[Relation]

class Calibration(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CALIBRATION_UNSPECIFIED: _ClassVar[Calibration]
    CALIBRATION_UNCALIBRATED: _ClassVar[Calibration]
    CALIBRATION_CALIBRATED: _ClassVar[Calibration]

class IndicatorKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INDICATOR_KIND_UNSPECIFIED: _ClassVar[IndicatorKind]
    INDICATOR_KIND_FEATURES: _ClassVar[IndicatorKind]
    INDICATOR_KIND_PROBE: _ClassVar[IndicatorKind]
    INDICATOR_KIND_COMBINATION: _ClassVar[IndicatorKind]
    INDICATOR_KIND_OBFUSCATION: _ClassVar[IndicatorKind]
    INDICATOR_KIND_WORDS: _ClassVar[IndicatorKind]

class Quadrant(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    QUADRANT_UNSPECIFIED: _ClassVar[Quadrant]
    QUADRANT_SOLID: _ClassVar[Quadrant]
    QUADRANT_CAUTIOUS: _ClassVar[Quadrant]
    QUADRANT_SPECULATIVE: _ClassVar[Quadrant]
    QUADRANT_CHECK_FIRST: _ClassVar[Quadrant]
VERDICT_UNSPECIFIED: Verdict
VERDICT_PASS: Verdict
VERDICT_FLAG: Verdict
VERDICT_INCOMPLETE: Verdict
SEVERITY_UNSPECIFIED: Severity
SEVERITY_INFO: Severity
SEVERITY_LOW: Severity
SEVERITY_MEDIUM: Severity
SEVERITY_HIGH: Severity
SEGMENT_UNSPECIFIED: Segment
SEGMENT_PROMPT: Segment
SEGMENT_RESPONSE: Segment
SEGMENT_HISTORY: Segment
RELATION_UNSPECIFIED: Relation
RELATION_SAME_MODEL: Relation
RELATION_READER_MODEL: Relation
CALIBRATION_UNSPECIFIED: Calibration
CALIBRATION_UNCALIBRATED: Calibration
CALIBRATION_CALIBRATED: Calibration
INDICATOR_KIND_UNSPECIFIED: IndicatorKind
INDICATOR_KIND_FEATURES: IndicatorKind
INDICATOR_KIND_PROBE: IndicatorKind
INDICATOR_KIND_COMBINATION: IndicatorKind
INDICATOR_KIND_OBFUSCATION: IndicatorKind
INDICATOR_KIND_WORDS: IndicatorKind
QUADRANT_UNSPECIFIED: Quadrant
QUADRANT_SOLID: Quadrant
QUADRANT_CAUTIOUS: Quadrant
QUADRANT_SPECULATIVE: Quadrant
QUADRANT_CHECK_FIRST: Quadrant

class Turn(_message.Message):
    __slots__ = ("role", "content", "fields_json")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    FIELDS_JSON_FIELD_NUMBER: _ClassVar[int]
    role: str
    content: str
    fields_json: str
    def __init__(self, role: _Optional[str] = ..., content: _Optional[str] = ..., fields_json: _Optional[str] = ...) -> None: ...

class TemplateInputs(_message.Message):
    __slots__ = ("date", "tools_json", "documents_json", "arguments_json")
    DATE_FIELD_NUMBER: _ClassVar[int]
    TOOLS_JSON_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_JSON_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_JSON_FIELD_NUMBER: _ClassVar[int]
    date: str
    tools_json: str
    documents_json: str
    arguments_json: str
    def __init__(self, date: _Optional[str] = ..., tools_json: _Optional[str] = ..., documents_json: _Optional[str] = ..., arguments_json: _Optional[str] = ...) -> None: ...

class ScoreRequest(_message.Message):
    __slots__ = ("request_id", "prompt", "response", "history", "watchlist", "labels", "include_evidence", "template_inputs", "prompt_token_ids", "response_token_ids")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    WATCHLIST_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_INPUTS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    prompt: str
    response: str
    history: _containers.RepeatedCompositeFieldContainer[Turn]
    watchlist: str
    labels: _containers.ScalarMap[str, str]
    include_evidence: bool
    template_inputs: TemplateInputs
    prompt_token_ids: _containers.RepeatedScalarFieldContainer[int]
    response_token_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, request_id: _Optional[str] = ..., prompt: _Optional[str] = ..., response: _Optional[str] = ..., history: _Optional[_Iterable[_Union[Turn, _Mapping]]] = ..., watchlist: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., include_evidence: _Optional[bool] = ..., template_inputs: _Optional[_Union[TemplateInputs, _Mapping]] = ..., prompt_token_ids: _Optional[_Iterable[int]] = ..., response_token_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class FeatureScore(_message.Message):
    __slots__ = ("feature", "label", "pooling", "pooled", "contribution", "label_source")
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    POOLING_FIELD_NUMBER: _ClassVar[int]
    POOLED_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    LABEL_SOURCE_FIELD_NUMBER: _ClassVar[int]
    feature: str
    label: str
    pooling: str
    pooled: float
    contribution: float
    label_source: str
    def __init__(self, feature: _Optional[str] = ..., label: _Optional[str] = ..., pooling: _Optional[str] = ..., pooled: _Optional[float] = ..., contribution: _Optional[float] = ..., label_source: _Optional[str] = ...) -> None: ...

class Evidence(_message.Message):
    __slots__ = ("start", "end", "feature", "activation", "segment", "turn")
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    TURN_FIELD_NUMBER: _ClassVar[int]
    start: int
    end: int
    feature: str
    activation: float
    segment: Segment
    turn: int
    def __init__(self, start: _Optional[int] = ..., end: _Optional[int] = ..., feature: _Optional[str] = ..., activation: _Optional[float] = ..., segment: _Optional[_Union[Segment, str]] = ..., turn: _Optional[int] = ...) -> None: ...

class IndicatorScore(_message.Message):
    __slots__ = ("name", "score", "threshold", "flagged", "severity", "probability", "features", "evidence", "calibration", "skipped_reason", "card_warning")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    FLAGGED_FIELD_NUMBER: _ClassVar[int]
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_REASON_FIELD_NUMBER: _ClassVar[int]
    CARD_WARNING_FIELD_NUMBER: _ClassVar[int]
    name: str
    score: float
    threshold: float
    flagged: bool
    severity: Severity
    probability: float
    features: _containers.RepeatedCompositeFieldContainer[FeatureScore]
    evidence: _containers.RepeatedCompositeFieldContainer[Evidence]
    calibration: Calibration
    skipped_reason: str
    card_warning: str
    def __init__(self, name: _Optional[str] = ..., score: _Optional[float] = ..., threshold: _Optional[float] = ..., flagged: _Optional[bool] = ..., severity: _Optional[_Union[Severity, str]] = ..., probability: _Optional[float] = ..., features: _Optional[_Iterable[_Union[FeatureScore, _Mapping]]] = ..., evidence: _Optional[_Iterable[_Union[Evidence, _Mapping]]] = ..., calibration: _Optional[_Union[Calibration, str]] = ..., skipped_reason: _Optional[str] = ..., card_warning: _Optional[str] = ...) -> None: ...

class Coverage(_message.Message):
    __slots__ = ("tokens", "prompt_tokens", "response_tokens", "history_tokens", "truncated", "prompt_tokens_dropped", "response_tokens_dropped", "history_tokens_dropped", "windows", "unlocated", "shortened", "folded", "invisible_chars", "lookalike_chars")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    HISTORY_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_DROPPED_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_TOKENS_DROPPED_FIELD_NUMBER: _ClassVar[int]
    HISTORY_TOKENS_DROPPED_FIELD_NUMBER: _ClassVar[int]
    WINDOWS_FIELD_NUMBER: _ClassVar[int]
    UNLOCATED_FIELD_NUMBER: _ClassVar[int]
    SHORTENED_FIELD_NUMBER: _ClassVar[int]
    FOLDED_FIELD_NUMBER: _ClassVar[int]
    INVISIBLE_CHARS_FIELD_NUMBER: _ClassVar[int]
    LOOKALIKE_CHARS_FIELD_NUMBER: _ClassVar[int]
    tokens: int
    prompt_tokens: int
    response_tokens: int
    history_tokens: int
    truncated: bool
    prompt_tokens_dropped: int
    response_tokens_dropped: int
    history_tokens_dropped: int
    windows: int
    unlocated: _containers.RepeatedScalarFieldContainer[str]
    shortened: _containers.RepeatedScalarFieldContainer[str]
    folded: bool
    invisible_chars: int
    lookalike_chars: int
    def __init__(self, tokens: _Optional[int] = ..., prompt_tokens: _Optional[int] = ..., response_tokens: _Optional[int] = ..., history_tokens: _Optional[int] = ..., truncated: _Optional[bool] = ..., prompt_tokens_dropped: _Optional[int] = ..., response_tokens_dropped: _Optional[int] = ..., history_tokens_dropped: _Optional[int] = ..., windows: _Optional[int] = ..., unlocated: _Optional[_Iterable[str]] = ..., shortened: _Optional[_Iterable[str]] = ..., folded: _Optional[bool] = ..., invisible_chars: _Optional[int] = ..., lookalike_chars: _Optional[int] = ...) -> None: ...

class Provenance(_message.Message):
    __slots__ = ("reader", "reader_revision", "reader_digest", "watchlist", "watchlist_digest", "relation", "version", "rendering_digest", "watchlists_version", "batch_invariant")
    READER_FIELD_NUMBER: _ClassVar[int]
    READER_REVISION_FIELD_NUMBER: _ClassVar[int]
    READER_DIGEST_FIELD_NUMBER: _ClassVar[int]
    WATCHLIST_FIELD_NUMBER: _ClassVar[int]
    WATCHLIST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    RELATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RENDERING_DIGEST_FIELD_NUMBER: _ClassVar[int]
    WATCHLISTS_VERSION_FIELD_NUMBER: _ClassVar[int]
    BATCH_INVARIANT_FIELD_NUMBER: _ClassVar[int]
    reader: str
    reader_revision: str
    reader_digest: str
    watchlist: str
    watchlist_digest: str
    relation: Relation
    version: str
    rendering_digest: str
    watchlists_version: int
    batch_invariant: bool
    def __init__(self, reader: _Optional[str] = ..., reader_revision: _Optional[str] = ..., reader_digest: _Optional[str] = ..., watchlist: _Optional[str] = ..., watchlist_digest: _Optional[str] = ..., relation: _Optional[_Union[Relation, str]] = ..., version: _Optional[str] = ..., rendering_digest: _Optional[str] = ..., watchlists_version: _Optional[int] = ..., batch_invariant: _Optional[bool] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("tokenise_s", "cache_s", "queue_s", "forward_s", "encode_s", "score_s", "total_s")
    TOKENISE_S_FIELD_NUMBER: _ClassVar[int]
    CACHE_S_FIELD_NUMBER: _ClassVar[int]
    QUEUE_S_FIELD_NUMBER: _ClassVar[int]
    FORWARD_S_FIELD_NUMBER: _ClassVar[int]
    ENCODE_S_FIELD_NUMBER: _ClassVar[int]
    SCORE_S_FIELD_NUMBER: _ClassVar[int]
    TOTAL_S_FIELD_NUMBER: _ClassVar[int]
    tokenise_s: float
    cache_s: float
    queue_s: float
    forward_s: float
    encode_s: float
    score_s: float
    total_s: float
    def __init__(self, tokenise_s: _Optional[float] = ..., cache_s: _Optional[float] = ..., queue_s: _Optional[float] = ..., forward_s: _Optional[float] = ..., encode_s: _Optional[float] = ..., score_s: _Optional[float] = ..., total_s: _Optional[float] = ...) -> None: ...

class ScoreResponse(_message.Message):
    __slots__ = ("request_id", "verdict", "indicators", "coverage", "provenance", "timings", "cached", "label_note", "incomplete", "left_out")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    INDICATORS_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    CACHED_FIELD_NUMBER: _ClassVar[int]
    LABEL_NOTE_FIELD_NUMBER: _ClassVar[int]
    INCOMPLETE_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    verdict: Verdict
    indicators: _containers.RepeatedCompositeFieldContainer[IndicatorScore]
    coverage: Coverage
    provenance: Provenance
    timings: Timings
    cached: bool
    label_note: str
    incomplete: _containers.RepeatedScalarFieldContainer[str]
    left_out: int
    def __init__(self, request_id: _Optional[str] = ..., verdict: _Optional[_Union[Verdict, str]] = ..., indicators: _Optional[_Iterable[_Union[IndicatorScore, _Mapping]]] = ..., coverage: _Optional[_Union[Coverage, _Mapping]] = ..., provenance: _Optional[_Union[Provenance, _Mapping]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., cached: _Optional[bool] = ..., label_note: _Optional[str] = ..., incomplete: _Optional[_Iterable[str]] = ..., left_out: _Optional[int] = ...) -> None: ...

class BatchScoreRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[ScoreRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[ScoreRequest, _Mapping]]] = ...) -> None: ...

class BatchScoreResult(_message.Message):
    __slots__ = ("response", "status")
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    response: ScoreResponse
    status: _status_pb2.Status
    def __init__(self, response: _Optional[_Union[ScoreResponse, _Mapping]] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class BatchScoreResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[BatchScoreResult]
    def __init__(self, results: _Optional[_Iterable[_Union[BatchScoreResult, _Mapping]]] = ...) -> None: ...

class GetInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReaderInfo(_message.Message):
    __slots__ = ("name", "revision", "model_type", "digest", "layers_run", "layers_total", "dtype", "device", "attention", "chat_template", "template_digest", "rendering_digest", "kernels", "graph_tokens", "batch_invariant")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    MODEL_TYPE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    LAYERS_RUN_FIELD_NUMBER: _ClassVar[int]
    LAYERS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_FIELD_NUMBER: _ClassVar[int]
    CHAT_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    RENDERING_DIGEST_FIELD_NUMBER: _ClassVar[int]
    KERNELS_FIELD_NUMBER: _ClassVar[int]
    GRAPH_TOKENS_FIELD_NUMBER: _ClassVar[int]
    BATCH_INVARIANT_FIELD_NUMBER: _ClassVar[int]
    name: str
    revision: str
    model_type: str
    digest: str
    layers_run: int
    layers_total: int
    dtype: str
    device: str
    attention: str
    chat_template: bool
    template_digest: str
    rendering_digest: str
    kernels: str
    graph_tokens: int
    batch_invariant: bool
    def __init__(self, name: _Optional[str] = ..., revision: _Optional[str] = ..., model_type: _Optional[str] = ..., digest: _Optional[str] = ..., layers_run: _Optional[int] = ..., layers_total: _Optional[int] = ..., dtype: _Optional[str] = ..., device: _Optional[str] = ..., attention: _Optional[str] = ..., chat_template: _Optional[bool] = ..., template_digest: _Optional[str] = ..., rendering_digest: _Optional[str] = ..., kernels: _Optional[str] = ..., graph_tokens: _Optional[int] = ..., batch_invariant: _Optional[bool] = ...) -> None: ...

class SaeInfo(_message.Message):
    __slots__ = ("name", "format", "architecture", "hookpoint", "d_in", "d_sae", "digest", "watched_features", "neuronpedia", "repo", "revision")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    HOOKPOINT_FIELD_NUMBER: _ClassVar[int]
    D_IN_FIELD_NUMBER: _ClassVar[int]
    D_SAE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    WATCHED_FEATURES_FIELD_NUMBER: _ClassVar[int]
    NEURONPEDIA_FIELD_NUMBER: _ClassVar[int]
    REPO_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    name: str
    format: str
    architecture: str
    hookpoint: str
    d_in: int
    d_sae: int
    digest: str
    watched_features: int
    neuronpedia: str
    repo: str
    revision: str
    def __init__(self, name: _Optional[str] = ..., format: _Optional[str] = ..., architecture: _Optional[str] = ..., hookpoint: _Optional[str] = ..., d_in: _Optional[int] = ..., d_sae: _Optional[int] = ..., digest: _Optional[str] = ..., watched_features: _Optional[int] = ..., neuronpedia: _Optional[str] = ..., repo: _Optional[str] = ..., revision: _Optional[str] = ...) -> None: ...

class Measurement(_message.Message):
    __slots__ = ("data", "n", "n_positive", "auroc", "auroc_low", "auroc_high", "tpr", "fpr", "baselines", "fpr_upper", "ece", "fpr_groups")
    class BaselinesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    DATA_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    N_POSITIVE_FIELD_NUMBER: _ClassVar[int]
    AUROC_FIELD_NUMBER: _ClassVar[int]
    AUROC_LOW_FIELD_NUMBER: _ClassVar[int]
    AUROC_HIGH_FIELD_NUMBER: _ClassVar[int]
    TPR_FIELD_NUMBER: _ClassVar[int]
    FPR_FIELD_NUMBER: _ClassVar[int]
    BASELINES_FIELD_NUMBER: _ClassVar[int]
    FPR_UPPER_FIELD_NUMBER: _ClassVar[int]
    ECE_FIELD_NUMBER: _ClassVar[int]
    FPR_GROUPS_FIELD_NUMBER: _ClassVar[int]
    data: str
    n: int
    n_positive: int
    auroc: float
    auroc_low: float
    auroc_high: float
    tpr: float
    fpr: float
    baselines: _containers.ScalarMap[str, float]
    fpr_upper: float
    ece: float
    fpr_groups: float
    def __init__(self, data: _Optional[str] = ..., n: _Optional[int] = ..., n_positive: _Optional[int] = ..., auroc: _Optional[float] = ..., auroc_low: _Optional[float] = ..., auroc_high: _Optional[float] = ..., tpr: _Optional[float] = ..., fpr: _Optional[float] = ..., baselines: _Optional[_Mapping[str, float]] = ..., fpr_upper: _Optional[float] = ..., ece: _Optional[float] = ..., fpr_groups: _Optional[float] = ...) -> None: ...

class DataFile(_message.Message):
    __slots__ = ("name", "sha256", "n", "n_positive")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    N_POSITIVE_FIELD_NUMBER: _ClassVar[int]
    name: str
    sha256: str
    n: int
    n_positive: int
    def __init__(self, name: _Optional[str] = ..., sha256: _Optional[str] = ..., n: _Optional[int] = ..., n_positive: _Optional[int] = ...) -> None: ...

class MadeWith(_message.Message):
    __slots__ = ("scopewatch", "reader", "reader_revision", "reader_digest", "dtype", "template_digest", "saes", "rendering_digest", "words")
    class SaesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class WordsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SCOPEWATCH_FIELD_NUMBER: _ClassVar[int]
    READER_FIELD_NUMBER: _ClassVar[int]
    READER_REVISION_FIELD_NUMBER: _ClassVar[int]
    READER_DIGEST_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SAES_FIELD_NUMBER: _ClassVar[int]
    RENDERING_DIGEST_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    scopewatch: str
    reader: str
    reader_revision: str
    reader_digest: str
    dtype: str
    template_digest: str
    saes: _containers.ScalarMap[str, str]
    rendering_digest: str
    words: _containers.ScalarMap[str, str]
    def __init__(self, scopewatch: _Optional[str] = ..., reader: _Optional[str] = ..., reader_revision: _Optional[str] = ..., reader_digest: _Optional[str] = ..., dtype: _Optional[str] = ..., template_digest: _Optional[str] = ..., saes: _Optional[_Mapping[str, str]] = ..., rendering_digest: _Optional[str] = ..., words: _Optional[_Mapping[str, str]] = ...) -> None: ...

class BeyondWords(_message.Message):
    __slots__ = ("words", "together", "over_words", "over_words_low", "over_words_high", "over_own", "over_own_low", "over_own_high")
    WORDS_FIELD_NUMBER: _ClassVar[int]
    TOGETHER_FIELD_NUMBER: _ClassVar[int]
    OVER_WORDS_FIELD_NUMBER: _ClassVar[int]
    OVER_WORDS_LOW_FIELD_NUMBER: _ClassVar[int]
    OVER_WORDS_HIGH_FIELD_NUMBER: _ClassVar[int]
    OVER_OWN_FIELD_NUMBER: _ClassVar[int]
    OVER_OWN_LOW_FIELD_NUMBER: _ClassVar[int]
    OVER_OWN_HIGH_FIELD_NUMBER: _ClassVar[int]
    words: str
    together: float
    over_words: float
    over_words_low: float
    over_words_high: float
    over_own: float
    over_own_low: float
    over_own_high: float
    def __init__(self, words: _Optional[str] = ..., together: _Optional[float] = ..., over_words: _Optional[float] = ..., over_words_low: _Optional[float] = ..., over_words_high: _Optional[float] = ..., over_own: _Optional[float] = ..., over_own_low: _Optional[float] = ..., over_own_high: _Optional[float] = ...) -> None: ...

class Fragility(_message.Message):
    __slots__ = ("change", "n", "auroc", "survival")
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    AUROC_FIELD_NUMBER: _ClassVar[int]
    SURVIVAL_FIELD_NUMBER: _ClassVar[int]
    change: str
    n: int
    auroc: float
    survival: float
    def __init__(self, change: _Optional[str] = ..., n: _Optional[int] = ..., auroc: _Optional[float] = ..., survival: _Optional[float] = ...) -> None: ...

class Card(_message.Message):
    __slots__ = ("date", "calibrated_on", "n", "measurements", "note", "data", "max_fpr", "confidence", "beats_bag_of_words", "leaks", "made_with", "beyond_words", "beside_bag_of_words", "fragility", "stands_on", "traffic", "measured_in")
    DATE_FIELD_NUMBER: _ClassVar[int]
    CALIBRATED_ON_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    MEASUREMENTS_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    MAX_FPR_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    BEATS_BAG_OF_WORDS_FIELD_NUMBER: _ClassVar[int]
    LEAKS_FIELD_NUMBER: _ClassVar[int]
    MADE_WITH_FIELD_NUMBER: _ClassVar[int]
    BEYOND_WORDS_FIELD_NUMBER: _ClassVar[int]
    BESIDE_BAG_OF_WORDS_FIELD_NUMBER: _ClassVar[int]
    FRAGILITY_FIELD_NUMBER: _ClassVar[int]
    STANDS_ON_FIELD_NUMBER: _ClassVar[int]
    TRAFFIC_FIELD_NUMBER: _ClassVar[int]
    MEASURED_IN_FIELD_NUMBER: _ClassVar[int]
    date: str
    calibrated_on: str
    n: int
    measurements: _containers.RepeatedCompositeFieldContainer[Measurement]
    note: str
    data: _containers.RepeatedCompositeFieldContainer[DataFile]
    max_fpr: float
    confidence: float
    beats_bag_of_words: bool
    leaks: _containers.RepeatedScalarFieldContainer[str]
    made_with: MadeWith
    beyond_words: BeyondWords
    beside_bag_of_words: str
    fragility: _containers.RepeatedCompositeFieldContainer[Fragility]
    stands_on: str
    traffic: _containers.RepeatedCompositeFieldContainer[DataFile]
    measured_in: MeasuredIn
    def __init__(self, date: _Optional[str] = ..., calibrated_on: _Optional[str] = ..., n: _Optional[int] = ..., measurements: _Optional[_Iterable[_Union[Measurement, _Mapping]]] = ..., note: _Optional[str] = ..., data: _Optional[_Iterable[_Union[DataFile, _Mapping]]] = ..., max_fpr: _Optional[float] = ..., confidence: _Optional[float] = ..., beats_bag_of_words: _Optional[bool] = ..., leaks: _Optional[_Iterable[str]] = ..., made_with: _Optional[_Union[MadeWith, _Mapping]] = ..., beyond_words: _Optional[_Union[BeyondWords, _Mapping]] = ..., beside_bag_of_words: _Optional[str] = ..., fragility: _Optional[_Iterable[_Union[Fragility, _Mapping]]] = ..., stands_on: _Optional[str] = ..., traffic: _Optional[_Iterable[_Union[DataFile, _Mapping]]] = ..., measured_in: _Optional[_Union[MeasuredIn, _Mapping]] = ...) -> None: ...

class MeasuredIn(_message.Message):
    __slots__ = ("dtype", "device", "date", "scopewatch", "n", "flags_changed")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    DATE_FIELD_NUMBER: _ClassVar[int]
    SCOPEWATCH_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    FLAGS_CHANGED_FIELD_NUMBER: _ClassVar[int]
    dtype: str
    device: str
    date: str
    scopewatch: str
    n: int
    flags_changed: int
    def __init__(self, dtype: _Optional[str] = ..., device: _Optional[str] = ..., date: _Optional[str] = ..., scopewatch: _Optional[str] = ..., n: _Optional[int] = ..., flags_changed: _Optional[int] = ...) -> None: ...

class ThresholdByLength(_message.Message):
    __slots__ = ("slope", "reference_tokens")
    SLOPE_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    slope: float
    reference_tokens: int
    def __init__(self, slope: _Optional[float] = ..., reference_tokens: _Optional[int] = ...) -> None: ...

class IndicatorInfo(_message.Message):
    __slots__ = ("name", "label", "severity", "segment", "threshold", "calibration", "card", "features", "kind", "combines", "card_warning", "threshold_by_length")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_FIELD_NUMBER: _ClassVar[int]
    CARD_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    COMBINES_FIELD_NUMBER: _ClassVar[int]
    CARD_WARNING_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_BY_LENGTH_FIELD_NUMBER: _ClassVar[int]
    name: str
    label: str
    severity: Severity
    segment: Segment
    threshold: float
    calibration: Calibration
    card: Card
    features: int
    kind: IndicatorKind
    combines: _containers.RepeatedScalarFieldContainer[str]
    card_warning: str
    threshold_by_length: ThresholdByLength
    def __init__(self, name: _Optional[str] = ..., label: _Optional[str] = ..., severity: _Optional[_Union[Severity, str]] = ..., segment: _Optional[_Union[Segment, str]] = ..., threshold: _Optional[float] = ..., calibration: _Optional[_Union[Calibration, str]] = ..., card: _Optional[_Union[Card, _Mapping]] = ..., features: _Optional[int] = ..., kind: _Optional[_Union[IndicatorKind, str]] = ..., combines: _Optional[_Iterable[str]] = ..., card_warning: _Optional[str] = ..., threshold_by_length: _Optional[_Union[ThresholdByLength, _Mapping]] = ...) -> None: ...

class WatchlistInfo(_message.Message):
    __slots__ = ("name", "digest", "indicators", "cleaned")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    INDICATORS_FIELD_NUMBER: _ClassVar[int]
    CLEANED_FIELD_NUMBER: _ClassVar[int]
    name: str
    digest: str
    indicators: _containers.RepeatedCompositeFieldContainer[IndicatorInfo]
    cleaned: str
    def __init__(self, name: _Optional[str] = ..., digest: _Optional[str] = ..., indicators: _Optional[_Iterable[_Union[IndicatorInfo, _Mapping]]] = ..., cleaned: _Optional[str] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_message_bytes", "max_text_chars", "max_batch_items", "max_labels", "max_label_chars", "max_history_turns", "max_tokens", "max_windows", "max_reply_bytes")
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_TEXT_CHARS_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_ITEMS_FIELD_NUMBER: _ClassVar[int]
    MAX_LABELS_FIELD_NUMBER: _ClassVar[int]
    MAX_LABEL_CHARS_FIELD_NUMBER: _ClassVar[int]
    MAX_HISTORY_TURNS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_WINDOWS_FIELD_NUMBER: _ClassVar[int]
    MAX_REPLY_BYTES_FIELD_NUMBER: _ClassVar[int]
    max_message_bytes: int
    max_text_chars: int
    max_batch_items: int
    max_labels: int
    max_label_chars: int
    max_history_turns: int
    max_tokens: int
    max_windows: int
    max_reply_bytes: int
    def __init__(self, max_message_bytes: _Optional[int] = ..., max_text_chars: _Optional[int] = ..., max_batch_items: _Optional[int] = ..., max_labels: _Optional[int] = ..., max_label_chars: _Optional[int] = ..., max_history_turns: _Optional[int] = ..., max_tokens: _Optional[int] = ..., max_windows: _Optional[int] = ..., max_reply_bytes: _Optional[int] = ...) -> None: ...

class GetInfoResponse(_message.Message):
    __slots__ = ("version", "reader", "saes", "watchlists", "limits", "watchlists_version")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    READER_FIELD_NUMBER: _ClassVar[int]
    SAES_FIELD_NUMBER: _ClassVar[int]
    WATCHLISTS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    WATCHLISTS_VERSION_FIELD_NUMBER: _ClassVar[int]
    version: str
    reader: ReaderInfo
    saes: _containers.RepeatedCompositeFieldContainer[SaeInfo]
    watchlists: _containers.RepeatedCompositeFieldContainer[WatchlistInfo]
    limits: Limits
    watchlists_version: int
    def __init__(self, version: _Optional[str] = ..., reader: _Optional[_Union[ReaderInfo, _Mapping]] = ..., saes: _Optional[_Iterable[_Union[SaeInfo, _Mapping]]] = ..., watchlists: _Optional[_Iterable[_Union[WatchlistInfo, _Mapping]]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., watchlists_version: _Optional[int] = ...) -> None: ...

class ReloadWatchlistsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LoadedWatchlist(_message.Message):
    __slots__ = ("name", "digest")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    name: str
    digest: str
    def __init__(self, name: _Optional[str] = ..., digest: _Optional[str] = ...) -> None: ...

class ReloadWatchlistsResponse(_message.Message):
    __slots__ = ("version", "watchlists", "changed")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    WATCHLISTS_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    version: int
    watchlists: _containers.RepeatedCompositeFieldContainer[LoadedWatchlist]
    changed: bool
    def __init__(self, version: _Optional[int] = ..., watchlists: _Optional[_Iterable[_Union[LoadedWatchlist, _Mapping]]] = ..., changed: _Optional[bool] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("pair", "kept", "top", "ablate", "delete")
    PAIR_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    ABLATE_FIELD_NUMBER: _ClassVar[int]
    DELETE_FIELD_NUMBER: _ClassVar[int]
    pair: ScoreRequest
    kept: str
    top: int
    ablate: bool
    delete: bool
    def __init__(self, pair: _Optional[_Union[ScoreRequest, _Mapping]] = ..., kept: _Optional[str] = ..., top: _Optional[int] = ..., ablate: _Optional[bool] = ..., delete: _Optional[bool] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("explanation", "left_out")
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    explanation: Explanation
    left_out: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, explanation: _Optional[_Union[Explanation, _Mapping]] = ..., left_out: _Optional[_Iterable[str]] = ...) -> None: ...

class ExplainedText(_message.Message):
    __slots__ = ("segment", "turn", "role", "text")
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    TURN_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    segment: Segment
    turn: int
    role: str
    text: str
    def __init__(self, segment: _Optional[_Union[Segment, str]] = ..., turn: _Optional[int] = ..., role: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class ExplainedTokens(_message.Message):
    __slots__ = ("text", "start", "end", "logprob")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    text: _containers.RepeatedScalarFieldContainer[int]
    start: _containers.RepeatedScalarFieldContainer[int]
    end: _containers.RepeatedScalarFieldContainer[int]
    logprob: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, text: _Optional[_Iterable[int]] = ..., start: _Optional[_Iterable[int]] = ..., end: _Optional[_Iterable[int]] = ..., logprob: _Optional[_Iterable[float]] = ...) -> None: ...

class Heat(_message.Message):
    __slots__ = ("token", "value")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    token: _containers.RepeatedScalarFieldContainer[int]
    value: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, token: _Optional[_Iterable[int]] = ..., value: _Optional[_Iterable[float]] = ...) -> None: ...

class ExplainedFeature(_message.Message):
    __slots__ = ("feature", "label", "label_source", "heat")
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    LABEL_SOURCE_FIELD_NUMBER: _ClassVar[int]
    HEAT_FIELD_NUMBER: _ClassVar[int]
    feature: str
    label: str
    label_source: str
    heat: Heat
    def __init__(self, feature: _Optional[str] = ..., label: _Optional[str] = ..., label_source: _Optional[str] = ..., heat: _Optional[_Union[Heat, _Mapping]] = ...) -> None: ...

class ScoreTerm(_message.Message):
    __slots__ = ("feature", "label", "label_source", "pooling", "pooled", "contribution", "percentile")
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    LABEL_SOURCE_FIELD_NUMBER: _ClassVar[int]
    POOLING_FIELD_NUMBER: _ClassVar[int]
    POOLED_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    PERCENTILE_FIELD_NUMBER: _ClassVar[int]
    feature: str
    label: str
    label_source: str
    pooling: str
    pooled: float
    contribution: float
    percentile: float
    def __init__(self, feature: _Optional[str] = ..., label: _Optional[str] = ..., label_source: _Optional[str] = ..., pooling: _Optional[str] = ..., pooled: _Optional[float] = ..., contribution: _Optional[float] = ..., percentile: _Optional[float] = ...) -> None: ...

class BenignPair(_message.Message):
    __slots__ = ("id", "score", "percentile")
    ID_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    PERCENTILE_FIELD_NUMBER: _ClassVar[int]
    id: str
    score: float
    percentile: float
    def __init__(self, id: _Optional[str] = ..., score: _Optional[float] = ..., percentile: _Optional[float] = ...) -> None: ...

class ExplainedIndicator(_message.Message):
    __slots__ = ("name", "label", "kind", "severity", "segment", "score", "threshold", "flagged", "skipped_reason", "calibrated", "card_warning", "bias", "slope", "intercept", "probability", "terms", "percentile", "benign_pairs", "heat", "card", "cleaned")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    FLAGGED_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_REASON_FIELD_NUMBER: _ClassVar[int]
    CALIBRATED_FIELD_NUMBER: _ClassVar[int]
    CARD_WARNING_FIELD_NUMBER: _ClassVar[int]
    BIAS_FIELD_NUMBER: _ClassVar[int]
    SLOPE_FIELD_NUMBER: _ClassVar[int]
    INTERCEPT_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    PERCENTILE_FIELD_NUMBER: _ClassVar[int]
    BENIGN_PAIRS_FIELD_NUMBER: _ClassVar[int]
    HEAT_FIELD_NUMBER: _ClassVar[int]
    CARD_FIELD_NUMBER: _ClassVar[int]
    CLEANED_FIELD_NUMBER: _ClassVar[int]
    name: str
    label: str
    kind: IndicatorKind
    severity: Severity
    segment: Segment
    score: float
    threshold: float
    flagged: bool
    skipped_reason: str
    calibrated: bool
    card_warning: str
    bias: float
    slope: float
    intercept: float
    probability: float
    terms: _containers.RepeatedCompositeFieldContainer[ScoreTerm]
    percentile: float
    benign_pairs: _containers.RepeatedCompositeFieldContainer[BenignPair]
    heat: Heat
    card: _containers.RepeatedScalarFieldContainer[str]
    cleaned: bool
    def __init__(self, name: _Optional[str] = ..., label: _Optional[str] = ..., kind: _Optional[_Union[IndicatorKind, str]] = ..., severity: _Optional[_Union[Severity, str]] = ..., segment: _Optional[_Union[Segment, str]] = ..., score: _Optional[float] = ..., threshold: _Optional[float] = ..., flagged: _Optional[bool] = ..., skipped_reason: _Optional[str] = ..., calibrated: _Optional[bool] = ..., card_warning: _Optional[str] = ..., bias: _Optional[float] = ..., slope: _Optional[float] = ..., intercept: _Optional[float] = ..., probability: _Optional[float] = ..., terms: _Optional[_Iterable[_Union[ScoreTerm, _Mapping]]] = ..., percentile: _Optional[float] = ..., benign_pairs: _Optional[_Iterable[_Union[BenignPair, _Mapping]]] = ..., heat: _Optional[_Union[Heat, _Mapping]] = ..., card: _Optional[_Iterable[str]] = ..., cleaned: _Optional[bool] = ...) -> None: ...

class DictionaryFeature(_message.Message):
    __slots__ = ("feature", "label", "label_source", "peak", "mean", "tokens", "watched")
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    LABEL_SOURCE_FIELD_NUMBER: _ClassVar[int]
    PEAK_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    WATCHED_FIELD_NUMBER: _ClassVar[int]
    feature: int
    label: str
    label_source: str
    peak: float
    mean: float
    tokens: int
    watched: bool
    def __init__(self, feature: _Optional[int] = ..., label: _Optional[str] = ..., label_source: _Optional[str] = ..., peak: _Optional[float] = ..., mean: _Optional[float] = ..., tokens: _Optional[int] = ..., watched: _Optional[bool] = ...) -> None: ...

class SegmentFeatures(_message.Message):
    __slots__ = ("segment", "features", "unexplained")
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    UNEXPLAINED_FIELD_NUMBER: _ClassVar[int]
    segment: Segment
    features: _containers.RepeatedCompositeFieldContainer[DictionaryFeature]
    unexplained: float
    def __init__(self, segment: _Optional[_Union[Segment, str]] = ..., features: _Optional[_Iterable[_Union[DictionaryFeature, _Mapping]]] = ..., unexplained: _Optional[float] = ...) -> None: ...

class TokenFeatures(_message.Message):
    __slots__ = ("feature", "activation")
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    feature: _containers.RepeatedScalarFieldContainer[int]
    activation: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, feature: _Optional[_Iterable[int]] = ..., activation: _Optional[_Iterable[float]] = ...) -> None: ...

class ExplainedSae(_message.Message):
    __slots__ = ("sae", "hookpoint", "d_sae", "segments", "tokens", "unexplained", "l0", "problem")
    SAE_FIELD_NUMBER: _ClassVar[int]
    HOOKPOINT_FIELD_NUMBER: _ClassVar[int]
    D_SAE_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    UNEXPLAINED_FIELD_NUMBER: _ClassVar[int]
    L0_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    sae: str
    hookpoint: str
    d_sae: int
    segments: _containers.RepeatedCompositeFieldContainer[SegmentFeatures]
    tokens: _containers.RepeatedCompositeFieldContainer[TokenFeatures]
    unexplained: _containers.RepeatedScalarFieldContainer[float]
    l0: float
    problem: str
    def __init__(self, sae: _Optional[str] = ..., hookpoint: _Optional[str] = ..., d_sae: _Optional[int] = ..., segments: _Optional[_Iterable[_Union[SegmentFeatures, _Mapping]]] = ..., tokens: _Optional[_Iterable[_Union[TokenFeatures, _Mapping]]] = ..., unexplained: _Optional[_Iterable[float]] = ..., l0: _Optional[float] = ..., problem: _Optional[str] = ...) -> None: ...

class KnowledgeGroup(_message.Message):
    __slots__ = ("name", "indicator", "features", "of", "words")
    NAME_FIELD_NUMBER: _ClassVar[int]
    INDICATOR_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    OF_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    indicator: str
    features: int
    of: int
    words: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., indicator: _Optional[str] = ..., features: _Optional[int] = ..., of: _Optional[int] = ..., words: _Optional[_Iterable[str]] = ...) -> None: ...

class ExplainedSentence(_message.Message):
    __slots__ = ("text", "start", "end", "hedging", "hedged", "logprob", "percentile", "surprising", "quadrant", "knowledge")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    HEDGING_FIELD_NUMBER: _ClassVar[int]
    HEDGED_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    PERCENTILE_FIELD_NUMBER: _ClassVar[int]
    SURPRISING_FIELD_NUMBER: _ClassVar[int]
    QUADRANT_FIELD_NUMBER: _ClassVar[int]
    KNOWLEDGE_FIELD_NUMBER: _ClassVar[int]
    text: int
    start: int
    end: int
    hedging: float
    hedged: bool
    logprob: float
    percentile: float
    surprising: bool
    quadrant: Quadrant
    knowledge: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, text: _Optional[int] = ..., start: _Optional[int] = ..., end: _Optional[int] = ..., hedging: _Optional[float] = ..., hedged: _Optional[bool] = ..., logprob: _Optional[float] = ..., percentile: _Optional[float] = ..., surprising: _Optional[bool] = ..., quadrant: _Optional[_Union[Quadrant, str]] = ..., knowledge: _Optional[_Iterable[str]] = ...) -> None: ...

class AblationChange(_message.Message):
    __slots__ = ("name", "before", "after", "random_mean", "random_low", "random_high", "beyond_random")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    RANDOM_MEAN_FIELD_NUMBER: _ClassVar[int]
    RANDOM_LOW_FIELD_NUMBER: _ClassVar[int]
    RANDOM_HIGH_FIELD_NUMBER: _ClassVar[int]
    BEYOND_RANDOM_FIELD_NUMBER: _ClassVar[int]
    name: str
    before: float
    after: float
    random_mean: float
    random_low: float
    random_high: float
    beyond_random: bool
    def __init__(self, name: _Optional[str] = ..., before: _Optional[float] = ..., after: _Optional[float] = ..., random_mean: _Optional[float] = ..., random_low: _Optional[float] = ..., random_high: _Optional[float] = ..., beyond_random: _Optional[bool] = ...) -> None: ...

class WordChange(_message.Message):
    __slots__ = ("text", "start", "end", "change")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    text: int
    start: int
    end: int
    change: float
    def __init__(self, text: _Optional[int] = ..., start: _Optional[int] = ..., end: _Optional[int] = ..., change: _Optional[float] = ...) -> None: ...

class Ablation(_message.Message):
    __slots__ = ("indicator", "features", "controls", "removed", "changes", "words", "conclusion")
    INDICATOR_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    CONTROLS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    CONCLUSION_FIELD_NUMBER: _ClassVar[int]
    indicator: str
    features: _containers.RepeatedScalarFieldContainer[str]
    controls: int
    removed: float
    changes: _containers.RepeatedCompositeFieldContainer[AblationChange]
    words: _containers.RepeatedCompositeFieldContainer[WordChange]
    conclusion: str
    def __init__(self, indicator: _Optional[str] = ..., features: _Optional[_Iterable[str]] = ..., controls: _Optional[int] = ..., removed: _Optional[float] = ..., changes: _Optional[_Iterable[_Union[AblationChange, _Mapping]]] = ..., words: _Optional[_Iterable[_Union[WordChange, _Mapping]]] = ..., conclusion: _Optional[str] = ...) -> None: ...

class TextSpan(_message.Message):
    __slots__ = ("text", "start", "end")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    text: int
    start: int
    end: int
    def __init__(self, text: _Optional[int] = ..., start: _Optional[int] = ..., end: _Optional[int] = ...) -> None: ...

class Deletion(_message.Message):
    __slots__ = ("turned", "words", "scored", "verdict", "conclusion")
    TURNED_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    SCORED_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    CONCLUSION_FIELD_NUMBER: _ClassVar[int]
    turned: bool
    words: _containers.RepeatedCompositeFieldContainer[TextSpan]
    scored: int
    verdict: Verdict
    conclusion: str
    def __init__(self, turned: _Optional[bool] = ..., words: _Optional[_Iterable[_Union[TextSpan, _Mapping]]] = ..., scored: _Optional[int] = ..., verdict: _Optional[_Union[Verdict, str]] = ..., conclusion: _Optional[str] = ...) -> None: ...

class ExplainedCoverage(_message.Message):
    __slots__ = ("tokens", "prompt_tokens", "response_tokens", "history_tokens", "truncated", "windows")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    HISTORY_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    WINDOWS_FIELD_NUMBER: _ClassVar[int]
    tokens: int
    prompt_tokens: int
    response_tokens: int
    history_tokens: int
    truncated: bool
    windows: int
    def __init__(self, tokens: _Optional[int] = ..., prompt_tokens: _Optional[int] = ..., response_tokens: _Optional[int] = ..., history_tokens: _Optional[int] = ..., truncated: _Optional[bool] = ..., windows: _Optional[int] = ...) -> None: ...

class ExplainedProvenance(_message.Message):
    __slots__ = ("reader", "reader_revision", "reader_digest", "watchlist", "watchlist_digest", "relation", "version", "rendering_digest", "watchlists_version", "saes", "batch_invariant")
    class SaesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    READER_FIELD_NUMBER: _ClassVar[int]
    READER_REVISION_FIELD_NUMBER: _ClassVar[int]
    READER_DIGEST_FIELD_NUMBER: _ClassVar[int]
    WATCHLIST_FIELD_NUMBER: _ClassVar[int]
    WATCHLIST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    RELATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RENDERING_DIGEST_FIELD_NUMBER: _ClassVar[int]
    WATCHLISTS_VERSION_FIELD_NUMBER: _ClassVar[int]
    SAES_FIELD_NUMBER: _ClassVar[int]
    BATCH_INVARIANT_FIELD_NUMBER: _ClassVar[int]
    reader: str
    reader_revision: str
    reader_digest: str
    watchlist: str
    watchlist_digest: str
    relation: Relation
    version: str
    rendering_digest: str
    watchlists_version: int
    saes: _containers.ScalarMap[str, str]
    batch_invariant: bool
    def __init__(self, reader: _Optional[str] = ..., reader_revision: _Optional[str] = ..., reader_digest: _Optional[str] = ..., watchlist: _Optional[str] = ..., watchlist_digest: _Optional[str] = ..., relation: _Optional[_Union[Relation, str]] = ..., version: _Optional[str] = ..., rendering_digest: _Optional[str] = ..., watchlists_version: _Optional[int] = ..., saes: _Optional[_Mapping[str, str]] = ..., batch_invariant: _Optional[bool] = ...) -> None: ...

class Explanation(_message.Message):
    __slots__ = ("request_id", "verdict", "incomplete", "summary", "trust", "texts", "tokens", "indicators", "features", "groups", "saes", "hedging_by", "sentences", "sentences_note", "ablations", "deletion", "coverage", "provenance", "label_note")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    INCOMPLETE_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    TRUST_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    INDICATORS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    SAES_FIELD_NUMBER: _ClassVar[int]
    HEDGING_BY_FIELD_NUMBER: _ClassVar[int]
    SENTENCES_FIELD_NUMBER: _ClassVar[int]
    SENTENCES_NOTE_FIELD_NUMBER: _ClassVar[int]
    ABLATIONS_FIELD_NUMBER: _ClassVar[int]
    DELETION_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    LABEL_NOTE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    verdict: Verdict
    incomplete: _containers.RepeatedScalarFieldContainer[str]
    summary: str
    trust: _containers.RepeatedScalarFieldContainer[str]
    texts: _containers.RepeatedCompositeFieldContainer[ExplainedText]
    tokens: ExplainedTokens
    indicators: _containers.RepeatedCompositeFieldContainer[ExplainedIndicator]
    features: _containers.RepeatedCompositeFieldContainer[ExplainedFeature]
    groups: _containers.RepeatedCompositeFieldContainer[KnowledgeGroup]
    saes: _containers.RepeatedCompositeFieldContainer[ExplainedSae]
    hedging_by: str
    sentences: _containers.RepeatedCompositeFieldContainer[ExplainedSentence]
    sentences_note: str
    ablations: _containers.RepeatedCompositeFieldContainer[Ablation]
    deletion: Deletion
    coverage: ExplainedCoverage
    provenance: ExplainedProvenance
    label_note: str
    def __init__(self, request_id: _Optional[str] = ..., verdict: _Optional[_Union[Verdict, str]] = ..., incomplete: _Optional[_Iterable[str]] = ..., summary: _Optional[str] = ..., trust: _Optional[_Iterable[str]] = ..., texts: _Optional[_Iterable[_Union[ExplainedText, _Mapping]]] = ..., tokens: _Optional[_Union[ExplainedTokens, _Mapping]] = ..., indicators: _Optional[_Iterable[_Union[ExplainedIndicator, _Mapping]]] = ..., features: _Optional[_Iterable[_Union[ExplainedFeature, _Mapping]]] = ..., groups: _Optional[_Iterable[_Union[KnowledgeGroup, _Mapping]]] = ..., saes: _Optional[_Iterable[_Union[ExplainedSae, _Mapping]]] = ..., hedging_by: _Optional[str] = ..., sentences: _Optional[_Iterable[_Union[ExplainedSentence, _Mapping]]] = ..., sentences_note: _Optional[str] = ..., ablations: _Optional[_Iterable[_Union[Ablation, _Mapping]]] = ..., deletion: _Optional[_Union[Deletion, _Mapping]] = ..., coverage: _Optional[_Union[ExplainedCoverage, _Mapping]] = ..., provenance: _Optional[_Union[ExplainedProvenance, _Mapping]] = ..., label_note: _Optional[str] = ...) -> None: ...
