"""What goes over the wire: the table of errors, the shapes of requests and answers, their checks.

Knows nothing of Ray, of routes or of the model. No message repeats the text that was sent, so that
messages may be logged.
"""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any

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
)

from mbti_ray.errors import nearest

# With `influence` the posts are read once more for each of them.
MAX_INFLUENCE = 32


class ErrorCode(Enum):
    """Every error that the service answers with; the code on the wire is the name in lower case."""

    NOT_JSON = 400, "the body is not JSON"
    UNAUTHORIZED = 401, "the service has an API key; give it as `Authorization: Bearer KEY`"
    NOT_FOUND = 404, "there is nothing at this path"
    METHOD_NOT_ALLOWED = 405, "this path does not know this method"
    TOO_LARGE = 413, "the body has too many bytes, or too many texts"
    INVALID = 422, "JSON of the wrong shape, or an empty text"
    QUEUE_FULL = 429, "too many requests are waiting; Retry-After says for how many seconds to wait"
    INTERNAL = 500, "a fault of the service"
    NOT_READY = 503, "the model is not loaded yet"
    TOO_SLOW = 504, "no answer within the deadline"

    def __init__(self, status: int, meaning: str) -> None:
        self.status = status
        self.meaning = meaning


class WireError(Exception):
    """An error to answer with; `str()` of it is the message."""

    def __init__(self, code: ErrorCode, message: str = "", *, retry_after_s: int = 1) -> None:
        """
        Args:
            retry_after_s: When to ask again, for the codes that say so.
        """
        super().__init__(message or code.meaning)
        self.code = code
        self.retry_after_s = retry_after_s

    def as_dict(self) -> dict[str, Any]:
        return {"error": {"code": self.code.name.lower(), "message": str(self)}}


def _readable(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        # "\ud800" is valid JSON, but no tokenizer can read half a character.
        raise ValueError("holds half of a surrogate pair") from None
    return text


Text = Annotated[StrictStr, AfterValidator(_readable), Field(min_length=1)]
Texts = Annotated[list[Text], Field(min_length=1)]
TextOrTexts = Annotated[
    Annotated[Text, Tag("text")] | Annotated[Texts, Tag("texts")],
    Discriminator(lambda value: "texts" if isinstance(value, list) else "text"),
]


class TextsRequest(BaseModel):
    """One text, or several that are read one by one."""

    model_config = ConfigDict(extra="forbid")
    inputs: TextOrTexts = Field(description="one text, or a list of texts read one by one")
    truncate: StrictBool = Field(True, description="false: refuse a text longer than is read")
    explain: StrictBool = Field(False, description="also say what was hidden from the model")


class UserRequest(BaseModel):
    """The posts of one user, read together."""

    model_config = ConfigDict(extra="forbid")
    posts: Texts = Field(description="the posts of one user, read together")
    truncate: StrictBool = Field(True, description="false: refuse posts longer than is read")
    influence: StrictBool = Field(
        False,
        description=f"also read the posts without each one of them (2 to {MAX_INFLUENCE})",
    )
    explain: StrictBool = Field(False, description="also say what was hidden from the model")


class Probabilities(BaseModel):
    """How likely the positive pole of each dimension is."""

    E: float
    N: float
    T: float
    J: float


class Influence(BaseModel):
    """By how much each probability would be lower without a post."""

    E: float
    N: float
    T: float
    J: float


class HiddenPart(BaseModel):
    """Characters (Unicode code points) from start to end, not included, that a word replaced."""

    start: int
    end: int
    kind: str = Field(description="type, link, functions, temperaments or axes")


class ReadText(BaseModel):
    """A text in clean Unicode, and what of it was hidden from the model."""

    text: str
    hidden: list[HiddenPart]


class Answer(BaseModel):
    """What was read from one text or one user."""

    type: str = Field(description="four letters; X where the model cannot tell")
    probabilities: Probabilities
    truncated: bool = Field(description="the text was longer than the model reads")
    windows: int = Field(description="how many pieces the text was read in")
    influence: list[Influence] | None = Field(
        None, description="what each post adds to each probability; only with influence"
    )
    read: list[ReadText] | None = Field(None, description="each text; only with explain")


class ErrorDetail(BaseModel):
    code: str
    message: str


class ErrorBody(BaseModel):
    """The shape of every error."""

    error: ErrorDetail


@dataclass(frozen=True)
class Question:
    """A checked request.

    Attributes:
        users: Lists of posts; each one becomes one prediction.
        whole: Read all posts of a user, instead of one text cut to what fits.
        single: The answer is one object, not a list.
        explain: Also say what was hidden.
        truncate: Read what fits of a text that is too long, instead of refusing it.
        influence: The users after the first are the first one without each of its posts.
    """

    users: tuple[tuple[str, ...], ...]
    whole: bool
    single: bool
    explain: bool = False
    truncate: bool = True
    influence: bool = False


async def read_body(chunks: AsyncIterator[bytes], *, max_bytes: int) -> bytes:
    """The whole body; stops reading as soon as it is larger than allowed.

    Raises:
        WireError: TOO_LARGE.
    """
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > max_bytes:
            raise WireError(ErrorCode.TOO_LARGE, f"the body has more than {max_bytes} bytes")
    return bytes(body)


def parse_question(body: bytes, *, max_texts: int) -> Question:
    """The question that a body asks.

    Raises:
        WireError: NOT_JSON, INVALID or TOO_LARGE; the message says where.
    """
    document = _parse_object(body)
    if ("inputs" in document) == ("posts" in document):
        hint = "".join(nearest(key, ("inputs", "posts")) for key in list(document)[:1])
        raise WireError(ErrorCode.INVALID, f'give exactly one of "inputs" and "posts"{hint}')
    try:
        if "posts" in document:
            user = UserRequest.model_validate(document)
            question = _question_of(user)
        else:
            asked = TextsRequest.model_validate(document)
            single = isinstance(asked.inputs, str)
            texts = [asked.inputs] if isinstance(asked.inputs, str) else asked.inputs
            question = Question(
                tuple((text,) for text in texts),
                whole=False,
                single=single,
                explain=asked.explain,
                truncate=asked.truncate,
            )
    except ValidationError as error:
        raise WireError(ErrorCode.INVALID, _explain(error)) from None
    asked_users = question.users[:1] if question.influence else question.users
    count = sum(len(posts) for posts in asked_users)
    if count > max_texts:
        raise WireError(ErrorCode.TOO_LARGE, f"{count} texts in one request; allowed: {max_texts}")
    return question


def _question_of(user: UserRequest) -> Question:
    posts = tuple(user.posts)
    users = [posts]
    if user.influence:
        if not 2 <= len(posts) <= MAX_INFLUENCE:
            raise WireError(
                ErrorCode.INVALID,
                f"influence: is for 2 to {MAX_INFLUENCE} posts, there are {len(posts)}",
            )
        users += [posts[:k] + posts[k + 1 :] for k in range(len(posts))]
    return Question(
        tuple(users),
        whole=True,
        single=True,
        explain=user.explain,
        truncate=user.truncate,
        influence=user.influence,
    )


def _parse_object(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body.decode())
    except json.JSONDecodeError as error:
        reason = f"{error.msg}, line {error.lineno} column {error.colno}"
        raise WireError(ErrorCode.NOT_JSON, f"the body is not JSON ({reason})") from None
    except UnicodeDecodeError:
        # Its own message would repeat the bytes that were sent.
        raise WireError(ErrorCode.NOT_JSON, "the body is not UTF-8") from None
    except (ValueError, RecursionError):
        message = "the body holds a number too long, or is nested too deep, to be read"
        raise WireError(ErrorCode.NOT_JSON, message) from None
    if not isinstance(document, dict):
        raise WireError(
            ErrorCode.INVALID, 'the body is not an object; give {"inputs": ...} or {"posts": ...}'
        )
    return document


def _explain(error: ValidationError) -> str:
    """The first mistake as `inputs[3]: is empty`; the value itself is never repeated."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    key, *rest = first["loc"]
    place = str(key)[:40] + "".join(f"[{part}]" for part in rest if isinstance(part, int))
    reasons = {
        "extra_forbidden": "is not known here",
        "string_type": "is not a text",
        "list_type": "is not a list of texts",
        "bool_type": "is not true or false",
        "string_too_short": "is empty",
        "too_short": "is an empty list",
    }
    reason = reasons.get(first["type"], first["msg"].removeprefix("Value error, "))
    return f"{place}: {reason}"
