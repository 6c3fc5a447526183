"""The disk tier: an adapter's files, found by its source within what may be read, and held against its content hash."""

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from services.adapters import files, hub
from services.adapters.files import CONFIG, WEIGHTS, Content
from services.adapters.metadata import QWEN_COORDINATES, InvalidAdapter

_REPOSITORY: Final = re.compile(r"(?P<owner>[\w.-]+)/(?P<name>[\w.-]+)(?:@(?P<revision>(?!.*\.\.)[\w./-]+))?")


@dataclass(frozen=True, slots=True)
class Adapter:
    """One version of one LoRA."""

    name: str
    source: str  # a directory, or a Hugging Face repository as owner/name@commit
    fingerprint: str  # SHA-256 of configuration and weights, first 16 hex digits
    rank: int  # of the module that has the largest
    targets: tuple[str, ...]
    size: int  # bytes of the weights
    description: str = ""
    tags: tuple[str, ...] = ()
    coordinates: str = QWEN_COORDINATES
    pinned: bool = False  # stays on the device as long as there is any other room

    @property
    def path(self) -> Path:
        """The directory that it was found in."""
        return Path(self.source)


class Shelf:
    """Directories and repositories that adapters may come from."""

    def __init__(self, roots: Sequence[Path], owners: Collection[str] = (), largest: int | None = None) -> None:
        """`owners` are the users and organisations on Hugging Face whose repositories are fetched; none: nobody's.

        `largest` are the bytes that an adapter's weights have at most.
        """
        self._named = [root.absolute() for root in roots]
        self._roots = [root.resolve() for root in roots]
        self._owners = frozenset(owners)
        self._largest = largest

    def describe(self, name: str, source: str) -> Adapter:
        """The adapter at a source, as it is now; a repository is pinned to its commit. Raises InvalidAdapter."""
        path, pinned = self._find(source)
        with _told_of(path, pinned):
            found, fingerprint = files.describe(path, self._largest)
        targets = found.config["target_modules"]
        return Adapter(
            name=name,
            source=pinned,
            fingerprint=fingerprint,
            rank=found.rank,
            targets=(targets,) if isinstance(targets, str) else tuple(sorted(targets)),
            size=found.size,
        )

    def read(self, adapter: Adapter) -> Content:
        """Its files, which may have been replaced meanwhile: other content under its name is another version.

        Raises InvalidAdapter.
        """
        path, pinned = self._find(adapter.source)
        with _told_of(path, pinned):
            content = files.read(path, self._largest)
        if content.fingerprint != adapter.fingerprint:
            raise other_content(pinned, content.fingerprint, adapter.fingerprint)
        return content._replace(files=replace(content.files, path=Path(pinned)))

    def inspect(self, adapter: Adapter) -> files.AdapterFiles:
        """What its files say, without the weights. Raises InvalidAdapter."""
        path, pinned = self._find(adapter.source)
        with _told_of(path, pinned):
            return replace(files.inspect(path, self._largest), path=Path(pinned))

    def _find(self, source: str) -> tuple[Path, str]:
        """The directory of a source, and the source pinned to what it is now."""
        if Path(source).is_absolute():
            with _told_of(Path(source), source):
                return self._directory(Path(source)), source
        if match := _REPOSITORY.fullmatch(source):
            return self._repository(source, match)
        raise InvalidAdapter(f"source: {source!r}, expected an absolute path or a repository as owner/name[@revision]")

    def _directory(self, path: Path) -> Path:
        """Nothing outside of the roots is looked at, whether the path or a link leads there."""
        if ".." in path.parts:
            raise InvalidAdapter(f"source: {str(path)!r}, expected a path without '..'")
        if not any(map(path.is_relative_to, (*self._named, *self._roots))):
            raise self._outside(path)
        if not path.is_dir():
            raise InvalidAdapter(f"source: {path} is not a directory")
        for part in (path, path / CONFIG, path / WEIGHTS):
            if not any(part.resolve().is_relative_to(root) for root in self._roots):
                raise self._outside(part)
        return path

    def _outside(self, path: Path) -> InvalidAdapter:
        """Without a word on what is there."""
        roots = ", ".join(map(str, self._named))
        return InvalidAdapter(f"source: {path} lies or leads outside of {roots} (model.adapters, cache.roots)")

    def _repository(self, source: str, match: re.Match[str]) -> tuple[Path, str]:
        if match["owner"] not in self._owners:
            allowed = ", ".join(sorted(self._owners)) or "nobody's"
            raise InvalidAdapter(f"source: {source!r}, expected a repository of {allowed} (cache.hub_owners)")
        repository = f"{match['owner']}/{match['name']}"
        path, commit = hub.fetch(repository, match["revision"], self._largest)
        return path, f"{repository}@{commit}"


@contextmanager
def _told_of(path: Path, source: str) -> Iterator[None]:
    """Whatever is wrong is told of the source, not of where a repository's files are kept."""
    try:
        yield
    except InvalidAdapter as error:
        raise InvalidAdapter(str(error).replace(str(path), source)) from None
    except OSError as error:
        raise InvalidAdapter(f"source: {source} cannot be read: {error.strerror or error}") from None
    except RuntimeError:  # of pathlib, for links in a circle
        raise InvalidAdapter(f"source: {source} cannot be read: a link leads to itself") from None


def other_content(source: str, found: str, expected: str) -> InvalidAdapter:
    """What is said of files that are not those of a known version."""
    replaced = "the files were replaced, `pointsman adapters update` takes them"
    return InvalidAdapter(f"{source}: content hash {found}, expected {expected}: {replaced}")
