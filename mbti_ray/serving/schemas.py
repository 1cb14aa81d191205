"""The HTTP contract: the table of error codes, the schemas of requests and responses, validation.

Must not know Ray, the routes or the model. No message repeats a text from the request, so messages
may be logged.
"""

import json
from enum import Enum
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    StrictStr,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from starlette.requests import Request

from mbti_ray.errors import nearest

# With `influence` the posts are read again once for each of them.
MAX_INFLUENCE_POSTS = 32


class ErrorCode(Enum):
    """Every error the service returns; `error.code` in the body is the name in lower case."""

    NOT_JSON = 400, "the body is not JSON"
    UNAUTHORIZED = 401, "the service requires an API key; send `Authorization: Bearer KEY`"
    FORBIDDEN = 403, "the request comes from another website, or names another host"
    NOT_FOUND = 404, "nothing is served at this path"
    METHOD_NOT_ALLOWED = 405, "this path does not support the method"
    TOO_LARGE = 413, "the body has too many bytes or too many texts"
    NOT_JSON_TYPE = 415, "the header Content-Type is not application/json"
    INVALID = 422, "JSON of the wrong shape, or an empty text"
    QUEUE_FULL = 429, "too many requests are waiting; retry after the seconds in Retry-After"
    INTERNAL = 500, "an error inside the service"
    NOT_READY = 503, "no replica is ready"
    TOO_SLOW = 504, "no answer before the deadline"

    def __init__(self, status: int, meaning: str) -> None:
        self.status = status
        self.meaning = meaning


class APIError(Exception):
    """An error response; `str()` of it is the message."""

    def __init__(self, code: ErrorCode, message: str = "", *, retry_after_s: int = 1) -> None:
        super().__init__(message or code.meaning)
        self.code = code
        self.retry_after_s = retry_after_s

    def as_dict(self) -> dict[str, Any]:
        return {"error": {"code": self.code.name.lower(), "message": str(self)}}


def _check_text(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        # "\ud800" is valid JSON, but no tokenizer accepts half a character.
        raise ValueError("contains half of a surrogate pair") from None
    return text


InputText = Annotated[StrictStr, AfterValidator(_check_text), Field(min_length=1)]
InputTexts = Annotated[list[InputText], Field(min_length=1)]
TextOrTexts = Annotated[
    Annotated[InputText, Tag("text")] | Annotated[InputTexts, Tag("texts")],
    Discriminator(lambda value: "texts" if isinstance(value, list) else "text"),
]


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid")
    truncate: StrictBool = Field(True, description="false: refuse a text longer than the limit")
    explain: StrictBool | Literal["words"] = Field(
        False,
        description="also return what was masked; words: and by how much lower each probability "
        "would be without each word",
    )


class TextsRequest(_Options):
    """One text, or several that are read independently, each cut to a single window."""

    whole: ClassVar = False
    inputs: TextOrTexts = Field(description="one text, or a list of texts read one by one")

    @property
    def users(self) -> list[tuple[str, ...]]:
        """The posts of each prediction: here a single one."""
        texts = [self.inputs] if isinstance(self.inputs, str) else self.inputs
        return [(text,) for text in texts]

    @property
    def is_single(self) -> bool:
        """Whether the response is one object, not a list."""
        return isinstance(self.inputs, str)

    def where(self, place: int) -> str:
        """The name of a text for messages: `inputs` or `inputs[3]`."""
        return "inputs" if self.is_single else f"inputs[{place}]"


class UserRequest(_Options):
    """The posts of one user, read together, in several windows."""

    whole: ClassVar = True
    is_single: ClassVar = True
    posts: InputTexts = Field(description="the posts of one user, read together")
    influence: StrictBool = Field(
        False,
        description=f"also read the posts without each one of them (2 to {MAX_INFLUENCE_POSTS})",
    )

    @field_validator("influence")
    @classmethod
    def _check_count(cls, influence: bool, info: ValidationInfo) -> bool:
        count = len(info.data.get("posts", ()))
        if influence and not 2 <= count <= MAX_INFLUENCE_POSTS:
            raise ValueError(f"needs 2 to {MAX_INFLUENCE_POSTS} posts, got {count}")
        return influence

    @field_validator("posts")
    @classmethod
    def _check_explained(cls, posts: list[str], info: ValidationInfo) -> list[str]:
        if info.data.get("explain") == "words" and len(posts) > MAX_INFLUENCE_POSTS:
            raise ValueError(
                f'"explain": "words" needs 1 to {MAX_INFLUENCE_POSTS}, got {len(posts)}'
            )
        return posts

    @property
    def users(self) -> list[tuple[str, ...]]:
        """All posts; with influence also those without each one of them."""
        posts = tuple(self.posts)
        without = [posts[:k] + posts[k + 1 :] for k in range(len(posts))]
        return [posts, *without] if self.influence else [posts]

    def where(self, place: int) -> str:
        """The name of a text for messages: `posts[3]`."""
        return f"posts[{place}]"


PredictRequest = TextsRequest | UserRequest


class Probabilities(BaseModel):
    """The probability of the positive pole of each dimension."""

    E: float
    N: float
    T: float
    J: float


class Influence(Probabilities):
    """How much lower each probability would be without something."""


class MaskedSpan(BaseModel):
    """Characters (Unicode code points) from start to end, exclusive, that were masked."""

    start: int
    end: int
    kind: str = Field(description="type, link, functions, temperaments or axes")


class WordInfluence(Influence):
    """How much lower each probability would be without the word, characters start to end."""

    start: int
    end: int


class MaskedText(BaseModel):
    """A text in clean Unicode, and the parts of it that were masked."""

    text: str
    hidden: list[MaskedSpan]
    words: list[WordInfluence] | None = Field(
        None, description="only with explain=words; of several posts those that matter most have it"
    )


class PredictResponse(BaseModel):
    """The prediction for one text or one user."""

    type: str = Field(description="four letters; X where the model abstains")
    probabilities: Probabilities
    truncated: bool = Field(description="the input was longer than the limit and was cut")
    windows: int = Field(description="the number of windows that were read")
    unknown: float = Field(description="the share of the words that the tokenizer does not know")
    tokens: int = Field(description="how much text was read, in words or parts of words")
    more_posts: dict[Literal["E", "N", "T", "J"], int | None] | None = Field(
        None,
        description="about how many more posts like those read would make each letter 80 % "
        "probable; null: unknown; only of a model whose confidence depends on the length of a text",
    )
    influence: list[Influence] | None = Field(
        None, description="the contribution of each post; only with influence"
    )
    read: list[MaskedText] | None = Field(None, description="each text; only with explain")


class ErrorDetail(BaseModel):
    code: str
    message: str


class ErrorResponse(BaseModel):
    """The body of every error."""

    error: ErrorDetail


async def read_json_body(request: Request, *, max_bytes: int) -> bytes:
    """The whole body; a larger one is refused by its Content-Length, or while it arrives.

    Raises:
        APIError, ClientDisconnect: NOT_JSON_TYPE or TOO_LARGE; it ended early.
    """
    size = f"{max_bytes / 1e6:g} MB" if max_bytes >= 1e5 else f"{max_bytes} bytes"
    too_large = APIError(ErrorCode.TOO_LARGE, f"the body has more than {size}")
    # A website can send other media types to the service without a preflight request.
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise APIError(ErrorCode.NOT_JSON_TYPE)
    declared = request.headers.get("content-length", "")
    # int() raises for thousands of digits; 20 are enough for any size.
    if declared.isdecimal() and int(declared[:20]) > max_bytes:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise too_large
    return bytes(body)


def parse_request(body: bytes, *, max_texts: int) -> PredictRequest:
    """Validates the body of POST /predict; APIError NOT_JSON, INVALID or TOO_LARGE says where."""
    document = _parse_object(body)
    if ("inputs" in document) == ("posts" in document):
        hint = "".join(nearest(key, ("inputs", "posts")) for key in list(document)[:1])
        raise APIError(ErrorCode.INVALID, f'give exactly one of "inputs" and "posts"{hint}')
    schema = UserRequest if "posts" in document else TextsRequest
    # Before pydantic validates, and collects an error for, each of a million keys or items.
    for key, value in document.items():
        if key not in schema.model_fields:
            # A key may contain half of a surrogate pair, which no response can.
            shown = key[:40].encode("ascii", "backslashreplace").decode()
            raise APIError(ErrorCode.INVALID, f"{shown}: is not a known field")
        if isinstance(value, list) and len(value) > max_texts:
            message = f"{len(value)} texts in one request; allowed: {max_texts}"
            raise APIError(ErrorCode.TOO_LARGE, message)
    try:
        return schema.model_validate(document)
    except ValidationError as error:
        raise APIError(ErrorCode.INVALID, _first_mistake(error)) from None


def _parse_object(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body.decode())
    except json.JSONDecodeError as error:
        reason = f"{error.msg}, line {error.lineno} column {error.colno}"
        raise APIError(ErrorCode.NOT_JSON, f"the body is not JSON ({reason})") from None
    except UnicodeDecodeError:
        # Its own message would repeat bytes of the request.
        raise APIError(ErrorCode.NOT_JSON, "the body is not UTF-8") from None
    except (ValueError, RecursionError):
        message = "the body contains a number too long, or is nested too deeply, to parse"
        raise APIError(ErrorCode.NOT_JSON, message) from None
    if not isinstance(document, dict):
        raise APIError(
            ErrorCode.INVALID,
            f"the body is not an object; got {_describe(document)}; "
            'send {"inputs": ...} or {"posts": ...}',
        )
    return document


def _first_mistake(error: ValidationError) -> str:
    """The first mistake as `inputs[3]: is empty`; a text itself is never repeated."""
    first = error.errors(include_url=False, include_context=False)[0]
    key, *rest = first["loc"]
    location = str(key) + "".join(f"[{part}]" for part in rest if isinstance(part, int))
    got = _describe(first["input"])
    choices = 'true, false or "words"' if key == "explain" else "true or false"
    reasons = {
        "string_type": f"is not a string; got {got}",
        "list_type": f"is not a list of strings; got {got}",
        "bool_type": f"is not {choices}; got {got}",
        "string_too_short": "is empty",
        "too_short": "is an empty list",
    }
    reason = reasons.get(first["type"], first["msg"].removeprefix("Value error, "))
    return f"{location}: {reason}"


def _describe(value: object) -> str:
    """What came, in JSON's words: `a number, 5`."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int | float):
        return f"a number, {str(value)[:20]}"
    if isinstance(value, str):
        return "a string"
    return "a list" if isinstance(value, list) else "an object"
