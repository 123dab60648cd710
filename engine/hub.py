"""Models by name from the Hugging Face hub: `owner/name`, or `owner/name:file.gguf` for one GGUF file of a repository.

The package huggingface_hub does the fetching, into the cache that all programs of its kind share, and by its own
settings: HF_TOKEN, HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE. Chosen here: which files a model needs, in which order, and
what a person is told when one can't be had. The package takes half a second to import: only a name on the hub pays.
"""

from __future__ import annotations

import logging
import re
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.config import ModelConfig
from engine.errors import ModelError
from engine.progress import Progress
from engine.safetensors_file import INDEX, SINGLE, weight_files

REQUEST_TIMEOUT = 10.0  # seconds for the list of files; for the files themselves the package has limits of its own
_NAME = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*?)(?::(?P<file>[\w./ -]+\.gguf))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REQUIRED = ("config.json", "tokenizer.json")
_SETTINGS = (
    *_REQUIRED,
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    INDEX,
)


@dataclass(frozen=True)
class HubName:
    """A repository on the hub, and the one file wanted from it (None: a model of safetensors)."""

    repo: str
    file: str | None = None

    def __str__(self) -> str:
        return self.repo if self.file is None else f"{self.repo}:{self.file}"


@dataclass(frozen=True)
class _Listing:
    """What a repository holds at one commit: bytes by file name."""

    commit: str
    files: dict[str, int]


class _Unreachable(Exception):
    """The hub did not answer as it should; str(error) says why, for the middle of a sentence."""


def parse_hub_name(text: str) -> HubName | None:
    """The name on the hub that `text` is; None if it can't be one. `./x/y`, `/x/y`, `~/x` and `x/y.gguf` are paths."""
    match = _NAME.fullmatch(text)
    if match is None or match["repo"].lower().endswith(".gguf"):
        return None
    if match["file"] and {"", ".", ".."} & set(match["file"].split("/")):  # no way out of the repository
        return None
    return HubName(match["repo"], match["file"])


def fetch_model(name: HubName, revision: str | None, progress: Progress) -> Path:
    """The model's folder, or its `.gguf` file, in the package's cache; what is not there is fetched first.

    `revision`: a branch, tag or commit (None: the main branch). Where the hub can't be reached, a copy that is whole
    serves. A whole commit in the cache is taken without asking the hub. A download that was interrupted leaves no file
    that could be taken for whole, and the next one goes on with the files that are still missing.

    Raises ModelError, one line with the remedy: no such repository, revision or file, no access, no network and no
    copy, a kind of model that is not supported (before its weights are fetched), a full disk.
    """
    cached = None
    with _quiet_library():
        try:
            with _explained(name, revision):
                cached = _cached(name, revision)
                if cached is not None and _COMMIT.fullmatch(revision or "") and not _missing(name, cached):
                    return cached
                listing = _list(name, revision)
        except _Unreachable as error:
            return _copy_or_error(name, cached, error)
        try:
            with _explained(name, revision):
                return _fetch(name, revision, listing, progress)
        except _Unreachable as error:
            raise ModelError(f"{name}: the download broke off: {error}; run again to fetch what is missing") from error


def _copy_or_error(name: HubName, cached: Path | None, error: _Unreachable) -> Path:
    """The copy in the cache, in place of an answer from the hub."""
    if cached is None:
        raise ModelError(f"{name} is not in {_cache()} and can't be fetched: {error}") from error
    missing = _missing(name, cached)
    if missing:
        what = f"its copy in {_cache()} lacks {missing[0]}"
        raise ModelError(f"{name}: {what}, and it can't be fetched: {error}") from error
    return cached


def _cached(name: HubName, revision: str | None) -> Path | None:
    """The model in the cache at the commit that `revision` was when it was fetched last; it may lack files."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name.repo, name.file or "config.json", revision=revision)
    if not isinstance(found, str):
        return None
    return Path(found) if name.file else Path(found).parent


def _missing(name: HubName, cached: Path) -> list[str]:
    """Files of a folder in the cache that are needed and not there."""
    if name.file:
        return []
    single = not (cached / INDEX).is_file()
    needed = [*_REQUIRED, *([SINGLE] if single else weight_files(cached))]
    return [file for file in needed if not (cached / file).is_file()]


def _list(name: HubName, revision: str | None) -> _Listing:
    from huggingface_hub import HfApi

    info = HfApi().model_info(name.repo, revision=revision, files_metadata=True, timeout=REQUEST_TIMEOUT)
    return _Listing(str(info.sha), {file.rfilename: file.size or 0 for file in info.siblings or []})


def _fetch(name: HubName, revision: str | None, listing: _Listing, progress: Progress) -> Path:
    """Fetch what is missing of one commit, settings before weights."""
    if name.file:
        _check_listed(name, listing, [name.file])
        folder = _download(name, listing, [name.file], "fetch", progress)
        _remember(name, revision, name.file, folder)
        return folder / name.file
    _check_model(name, listing)
    settings = [file for file in _SETTINGS if file in listing.files and not (file == INDEX and SINGLE in listing.files)]
    folder = _download(name, listing, settings, "fetch settings of", progress)
    ModelConfig.from_hf(folder)  # before gigabytes of weights of a kind that does not run
    weights = [SINGLE] if SINGLE in listing.files else weight_files(folder)
    _check_listed(name, listing, weights)
    _download(name, listing, weights, "fetch weights of", progress)
    _remember(name, revision, "config.json", folder)
    return folder


def _check_model(name: HubName, listing: _Listing) -> None:
    """The repository must hold what a model needs; if not, it may hold GGUF files, which have to be named."""
    missing = [file for file in _REQUIRED if file not in listing.files]
    if SINGLE not in listing.files and INDEX not in listing.files:
        missing.insert(0, f"{SINGLE} nor {INDEX}")
    if not missing:
        return
    ggufs = sorted(file for file in listing.files if file.endswith(".gguf"))
    instead = "; a model needs safetensors, config.json and tokenizer.json"
    if ggufs:
        instead = f"; name one of its {len(ggufs)} GGUF files, as in {name.repo}:{ggufs[0]}"
    raise ModelError(f"{name.repo} on {_endpoint()} has no {missing[0]}{instead}")


def _check_listed(name: HubName, listing: _Listing, files: Sequence[str]) -> None:
    absent = [file for file in files if file not in listing.files]
    if absent:
        alike = sorted(file for file in listing.files if Path(file).suffix == Path(absent[0]).suffix)
        found = f"; it has {', '.join(alike[:5])}{' ...' if len(alike) > 5 else ''}" if alike else ""
        raise ModelError(f"{name.repo} on {_endpoint()} has no file {absent[0]}{found}")


def _download(name: HubName, listing: _Listing, files: Sequence[str], stage: str, progress: Progress) -> Path:
    """Fetch those of `files` that are not in the cache; the folder of the commit, in which all of them lie."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    wanted = {file: listing.files[file] for file in files}
    for file in files:
        if isinstance(try_to_load_from_cache(name.repo, file, revision=listing.commit), str):
            del wanted[file]
    _check_space(name, sum(wanted.values()))
    bar = _bars(f"{stage} {name}", sum(wanted.values()), progress) if wanted else None
    paths = [hf_hub_download(name.repo, file, revision=listing.commit, tqdm_class=bar) for file in files]
    depth = files[0].count("/") + 1
    return Path(paths[0]).parents[depth - 1]


def _remember(name: HubName, revision: str | None, file: str, folder: Path) -> None:
    """Let the cache know which commit `revision` is: last, so that it never leads to a model that is not whole."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    if try_to_load_from_cache(name.repo, file, revision=revision) != str(folder / file):
        hf_hub_download(name.repo, file, revision=revision)


def _check_space(name: HubName, nbytes: int) -> None:
    folder = next(place for place in (_cache(), *_cache().parents) if place.exists())
    free = shutil.disk_usage(folder).free
    if nbytes > free:
        room = f"{nbytes / 1e9:.2f} GB are to be fetched and {free / 1e9:.2f} GB are free in {_cache()}"
        raise ModelError(f"{name}: {room}; make room there, or set HF_HOME to another folder")


def _nothing(*_: object, **__: object) -> None:
    """What a bar on a terminal would do."""


def _bars(stage: str, total: int, progress: Progress) -> type:
    """A class that the package takes for a tqdm: one object for each file, all adding to the same count."""
    done = 0

    class Bar:
        def __init__(self, *_: object, **__: object) -> None:
            """Totals and descriptions are known already."""

        def update(self, count: float | None = 1) -> None:
            nonlocal done
            done += int(count or 0)
            progress(stage, min(done, total), total, "bytes")

        def __enter__(self) -> Bar:
            return self

        __exit__ = close = refresh = update_transfer = _nothing
        set_description = set_postfix_str = set_transfer_postfix_str = _nothing

    progress(stage, 0, total, "bytes")
    return Bar


@contextmanager
def _quiet_library() -> Iterator[None]:
    """The package tells of retries and full disks as it goes; here each ends in one line, or in success."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


@contextmanager
def _explained(name: HubName, revision: str | None) -> Iterator[None]:
    """Turn what the package raises into ModelError, or into _Unreachable where another time may do better."""
    from huggingface_hub import errors

    try:
        yield
    except (ModelError, TypeError, AttributeError, NameError):  # said already; the others are mistakes of ours
        raise
    except errors.OfflineModeIsEnabled as error:
        raise _Unreachable("HF_HUB_OFFLINE is set; run once without it") from error
    except errors.LocalEntryNotFoundError as error:  # how the package puts it that a file could not be asked for
        raise _Unreachable(f"{_endpoint()}: {_one_line(error.__cause__ or error)}; check the network") from error
    except errors.HfHubHTTPError as error:
        raise _refused(name, revision, error) from error
    except errors.HFValidationError as error:
        raise ModelError(f"{name} is no name of a repository: {_one_line(error)}") from error
    except OSError as error:
        if error.errno is None:  # the package's own, such as a file that is shorter than was announced
            raise _Unreachable(_one_line(error)) from error
        where = f"cannot put {name} into {_cache()}: {error.strerror}"
        raise ModelError(f"{where}; make room there, or set HF_HOME to another folder") from error
    except Exception as error:  # what the HTTP library beneath raises; which library that is depends on the version
        raise _Unreachable(f"{_endpoint()}: {_one_line(error)}; check the network") from error


def _refused(name: HubName, revision: str | None, error: Any) -> Exception:
    """What an answer other than success means."""
    from huggingface_hub import errors

    place, status = _endpoint(), error.response.status_code
    token = f"set HF_TOKEN to a token that may read it ({place}/settings/tokens)"
    if isinstance(error, errors.GatedRepoError):
        return ModelError(f"{name.repo} is gated: ask for access at {place}/{name.repo}, then {token}")
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelError(f"{name.repo} on {place} has no branch, tag or commit {revision}")
    if isinstance(error, errors.RepositoryNotFoundError):
        what = f"no model {name.repo} on {place}, nor a folder or file of this name"
        return ModelError(f"{what}: check the spelling; if it is private, {token}")
    if status in (401, 403):
        return ModelError(f"{place} refuses {name.repo} ({status}): {token}")
    if status in (408, 429) or status >= 500:
        return _Unreachable(f"{place} answers {status}; try again later")
    return ModelError(f"{place} answers {status} for {name}: {_one_line(error)}")


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _cache() -> Path:
    """The folder in which the package keeps models."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _endpoint() -> str:
    """The hub's address."""
    from huggingface_hub import constants

    return constants.ENDPOINT
