"""Errors of the hub and of the connection to it, each with a message and a hint."""

from __future__ import annotations

import errno
import re

from engine.errors import LoraSmithError, ModelError, StorageError, causes, is_storage_limit, storage_error
from engine.masking import masked
from engine.models.hub.cache import cache_root
from engine.text import printable


class DownloadError(ModelError):
    """A model cannot be downloaded."""

    title = "Download"


class Cancelled(Exception):
    """The download was cancelled; the part that has arrived is kept."""


def offline() -> DownloadError:
    """The error where HF_HUB_OFFLINE is set."""
    return DownloadError(
        "HF_HUB_OFFLINE is set, so nothing is downloaded.",
        "Unset it (and TRANSFORMERS_OFFLINE), or copy the model's folder into the Hugging Face cache: "
        f"{printable(cache_root())}",
        code="hub-offline",
    )


def explain_error(error: BaseException, repository: str) -> LoraSmithError | None:
    """The message for an error of the hub's library or of the connection; None for what may be our mistake."""
    from httpx2 import RequestError
    from huggingface_hub import errors

    error = next((cause for cause in causes(error) if not isinstance(cause, errors.LocalEntryNotFoundError)), error)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return offline()
    if isinstance(error, errors.HfHubHTTPError):
        return _refused(error, repository)
    if isinstance(error, errors.HFValidationError):
        return DownloadError(
            f"{printable(repository)} cannot be an id on the hub.", "It has the form owner/name.", code="hub-id-invalid"
        )
    if isinstance(error, RequestError):
        return unreachable(error)
    if isinstance(error, errors.FileMetadataError | errors.LocalEntryNotFoundError):
        return DownloadError(
            f"The hub's answer about {repository} cannot be used: {_first_line(error)}",
            _CONNECTION,
            code="hub-answer-unusable",
        )
    if isinstance(error, UnicodeEncodeError):  # the only user text in a header
        return DownloadError(
            "The token in HF_TOKEN has a character that is not ASCII.", "Set it again.", code="hub-token-not-ascii"
        )
    return _storage(error) if isinstance(error, OSError) else None


_CONNECTION = "Check the connection, the proxy (HTTPS_PROXY) and, where one is set, HF_ENDPOINT. Then try again."


def unreachable(error: BaseException) -> DownloadError:
    """The error for a connection that failed or broke off."""
    from huggingface_hub import constants

    return DownloadError(
        f"{printable(constants.ENDPOINT)} cannot be reached: {_first_line(error)}", _CONNECTION, code="hub-unreachable"
    )


def _refused(error: BaseException, repository: str) -> DownloadError:
    from huggingface_hub import constants, errors, get_token

    page = f"{constants.ENDPOINT}/{repository}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    token = "Make a token that may read, then set HF_TOKEN to it, or run: hf auth login"
    if isinstance(error, errors.GatedRepoError):
        token_state = "the token that is set is not allowed in" if get_token() else "and no token is set"
        return DownloadError(
            f"{repository} is gated: its authors want their licence accepted first, {token_state}.",
            f"Accept it on {page}. {token}",
            code="hub-model-gated",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return DownloadError(
            f"There is no model {repository} on the hub, or it is private.",
            f"Check the id on {constants.ENDPOINT}. For a private one: {token[0].lower()}{token[1:]}",
            code="hub-model-unknown",
        )
    if isinstance(error, errors.EntryNotFoundError | errors.RevisionNotFoundError):
        return DownloadError(f"A file of {repository} is no longer on the hub.", "Start over.", code="hub-file-gone")
    if status in (401, 403):
        return DownloadError(
            f"The hub refuses {repository} ({status}): {_first_line(error)}",
            f"{token}. Page: {page}",
            code="hub-refused",
        )
    return DownloadError(
        f"The hub cannot serve {repository} now ({status}).",
        "Try again later; the downloaded part is kept.",
        code="hub-unavailable",
    )


def _storage(error: OSError) -> LoraSmithError | None:
    limit = storage_error(error, cache_root(), "Writing into") if is_storage_limit(error) else None
    if limit is None:
        return None
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            limit.message,
            "Free some space there, or set HF_HOME to a place with more. The downloaded part is kept.",
            code=limit.code,
        )
    return StorageError(limit.message, "Get write permission there, or set HF_HOME to another place.", code=limit.code)


def _first_line(error: BaseException) -> str:
    """The first line of the error's message, ended with a full stop."""
    line = printable(masked(str(error)).strip().partition("\n")[0])
    text = re.sub(r"\[Errno -?\d+\] ", "", line) or type(error).__name__
    return text if text.endswith((".", "!", "?")) else f"{text}."
