"""The pools that the person has added beside the default one: a file in Jupyter's configuration folder."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from jupyter_core.paths import jupyter_config_dir

from nbgpu import errors
from nbgpu.client.pool import refuse_open_network
from nbgpu.client.trust import Trust, is_tls, split_host

THIS_MACHINE = "this machine"
"""The name of the pool of this machine's own agent."""
MAX_NAME_CHARACTERS = 64
_FILE = "pools.json"
_LOCK_FILE = "pools.lock"


@dataclass(frozen=True)
class ConfiguredPool:
    """A pool by the name that the person gave it."""

    name: str
    address: str
    """`unix:/path`, `127.0.0.1:port`, or `grpcs://host:port` of an agent on a network."""
    token: str = field(repr=False)
    authority: str = field(default="", repr=False)
    """The certificate, as PEM, by which an agent on a network is recognised."""
    client_certificate: str = ""
    """Path of a file with the client's own key and certificate; empty: the agent asks for none."""

    def trust(self) -> Trust | None:
        """Returns what its TLS connections need; None where there is no TLS."""
        return Trust(self.authority, self.client_certificate) if is_tls(self.address) else None


class NoSuchPoolError(errors.UserError):
    """Raised for a name that no pool has."""

    hint = "list them by `nbgpu pool list`, add one by `nbgpu pool add NAME ADDRESS`"

    def __init__(self, name: str, known: Sequence[str] = ()) -> None:
        super().__init__(name, tuple(known))
        self.name = name
        self.known = tuple(known)

    def message(self) -> str:
        known = ", ".join(map(repr, self.known))
        return f"there is no pool {self.name!r}" + (f"; there is {known}" if known else "")


class PoolRefusedError(errors.UserError):
    """Raised for a name, an address or a token that a pool cannot have."""

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text, hint)
        self.hint = hint

    def message(self) -> str:
        return str(self.args[0])


class PoolsFileError(errors.UserError):
    """Raised when the file of pools cannot be read, or must not be trusted."""

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text, hint)
        self.hint = hint

    def message(self) -> str:
        return str(self.args[0])


def pools_file() -> Path:
    """Returns where the pools are kept."""
    return Path(jupyter_config_dir()) / "nbgpu" / _FILE


def read_pools() -> tuple[ConfiguredPool, ...]:
    """Returns the pools that were added, in that order.

    Raises:
        PoolsFileError: The file holds something else, or others than its owner can read it.
    """
    path = pools_file()
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            content = file.read()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise PoolsFileError(f"{path} cannot be read: {error.strerror}") from error
    if hasattr(os, "getuid") and (
        status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & (stat.S_IRWXG | stat.S_IRWXO)
    ):
        raise PoolsFileError(f"{path} holds tokens, and others than its owner can read it", f"`chmod 600 {path}`")
    try:
        pools = tuple(ConfiguredPool(**each) for each in json.loads(content)["pools"])
        for pool in pools:
            check_pool(pool)
    except (ValueError, TypeError, KeyError) as error:
        raise PoolsFileError(f"{path} cannot be understood: {error}", "remove it, and add the pools again") from error
    return pools


def find_pool(name: str) -> ConfiguredPool:
    """Returns the pool of that name.

    Raises:
        NoSuchPoolError: There is none.
        PoolsFileError: As `read_pools`.
    """
    pools = read_pools()
    for pool in pools:
        if pool.name == name:
            return pool
    raise NoSuchPoolError(name, [each.name for each in pools])


def add_pool(pool: ConfiguredPool) -> None:
    """Adds a pool, in the place of one that has its name.

    Raises:
        PoolRefusedError, NotOfferedError: As `check_pool`.
        PoolsFileError: As `read_pools`, or it cannot be written.
    """
    check_pool(pool)
    with _changing():
        known = list(read_pools())
        positions = [at for at, each in enumerate(known) if each.name == pool.name]
        if positions:
            known[positions[0]] = pool
        else:
            known.append(pool)
        _write(known)


def remove_pool(name: str) -> None:
    """Removes a pool; its sessions go on.

    Raises:
        NoSuchPoolError: There is none of that name.
        PoolsFileError: As `add_pool`.
    """
    with _changing():
        known = read_pools()
        if all(each.name != name for each in known):
            raise NoSuchPoolError(name, [each.name for each in known])
        _write([each for each in known if each.name != name])


def check_pool(pool: ConfiguredPool) -> None:
    """Refuses what cannot be a pool.

    Raises:
        PoolRefusedError: The name or the token cannot be one.
        NotOfferedError: The address is neither a Unix socket nor on loopback, and has no TLS.
        UntrustedAgentError: It has TLS, and nothing says by what the agent is recognised.
    """
    for name, value in asdict(pool).items():
        if not isinstance(value, str):
            raise PoolRefusedError(f"the {name} of a pool is a text, not {value!r}")
    check_name(pool.name)
    if not pool.address.isprintable() or " " in pool.address or ":" not in pool.address:
        raise PoolRefusedError(f"{pool.address!r} is no address", "such as 127.0.0.1:7443 or unix:/run/nbgpu.sock")
    if is_tls(pool.address):
        split_host(pool.address)
    refuse_open_network(pool.address, pool.trust() if pool.authority else None)
    if not pool.token or not pool.token.isascii() or not pool.token.isprintable():
        raise PoolRefusedError("that cannot be a token", "the agent prints its token when it starts")


def check_name(name: str) -> None:
    """Refuses what cannot be a pool's name.

    Raises:
        PoolRefusedError: It cannot.
    """
    if not name.strip() or len(name) > MAX_NAME_CHARACTERS or not name.isprintable() or "/" in name:
        raise PoolRefusedError(
            f"{name[:MAX_NAME_CHARACTERS]!r} cannot be the name of a pool",
            f"a name has 1 to {MAX_NAME_CHARACTERS} characters that can be printed, and no /",
        )
    if name == THIS_MACHINE:
        raise PoolRefusedError(f"{THIS_MACHINE!r} is this machine's own agent", "choose another name")


@contextlib.contextmanager
def _changing() -> Iterator[None]:
    """Keeps two processes from changing the file at once."""
    folder = pools_file().parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(folder / _LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            with contextlib.suppress(ImportError):  # Windows has none
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)  # releases the lock
    except OSError as error:
        raise PoolsFileError(f"{pools_file()} cannot be written: {error.strerror}") from error


def _write(pools: Sequence[ConfiguredPool]) -> None:
    """Writes the file whole or not at all, with access for the owner alone."""
    path = pools_file()
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump({"pools": [asdict(each) for each in pools]}, file, indent=1)
    temporary.chmod(0o600)  # also where one of another mode was left there
    os.replace(temporary, path)
