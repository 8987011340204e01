"""The agent's certificates: an authority of its own, what the server shows, and what clients may have to show.

Clients pin the authority by its SHA-256, so that the server's certificate can be renewed without their noticing. All is
in one folder, its owner's alone.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import stat
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nbgpu_agent.errors import InvalidRequestError
from nbgpu_protocol.discovery import TLS_NAME

AUTHORITY_FILE = "authority.pem"
"""Its key and certificate."""
SERVER_FILE = "server.pem"
"""The key, the certificate, and the authority's certificate after it: clients compare that with their pin."""
USERS_FILE = "users.sqlite"
AUTHORITY_LIFETIME = timedelta(days=3650)
LIFETIME = timedelta(days=397)
"""Of the server's and of clients' certificates: the longest that browsers still accept, a habit worth keeping."""
RENEW_BEFORE = timedelta(days=30)
_CLOCK_SKEW = timedelta(hours=1)


@dataclass(frozen=True)
class Identity:
    """The certificates in a folder."""

    folder: Path

    @property
    def users_file(self) -> Path:
        return self.folder / USERS_FILE

    def exists(self) -> bool:
        return (self.folder / AUTHORITY_FILE).exists() and (self.folder / SERVER_FILE).exists()

    def make(self, host: str) -> None:
        """Makes authority and server certificate.

        Args:
            host: By which clients reach the agent: a name or an address.

        Raises:
            InvalidRequestError: There is an authority already, or the folder cannot be used.
        """
        if (self.folder / AUTHORITY_FILE).exists():
            raise InvalidRequestError(
                f"{self.folder} has certificates already",
                "renew the server's with `nbgpu agent init --renew`, let users in with `nbgpu agent invite USER`",
            )
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.chmod(0o700)
        except OSError as error:
            raise InvalidRequestError(f"the folder {self.folder} cannot be used: {error.strerror}") from error
        key = _new_key()
        name = _name(f"nbgpu agent {host}"[:64])
        usage = _key_usage(key_cert_sign=True, crl_sign=True)
        certificate = (
            _builder(name, name, key, AUTHORITY_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(key, hashes.SHA256())
        )
        _write(self.folder / AUTHORITY_FILE, _key_pem(key) + _pem(certificate))
        self.renew(host)

    def renew(self, host: str) -> datetime:
        """Makes a new key and certificate for the server; returns until when it is valid. The pin stays.

        Raises:
            InvalidRequestError: There is no authority.
        """
        certificate, key_pem = self._issue(TLS_NAME, host, ExtendedKeyUsageOID.SERVER_AUTH)
        _write(self.folder / SERVER_FILE, key_pem + _pem(certificate) + _pem(self._authority()[1]))
        return certificate.not_valid_after_utc

    def client_certificate(self, user: str) -> bytes:
        """Returns a user's new key and certificate as PEM, which is kept nowhere here.

        Raises:
            InvalidRequestError: There is no authority.
        """
        certificate, key_pem = self._issue(user, "", ExtendedKeyUsageOID.CLIENT_AUTH)
        return key_pem + _pem(certificate)

    def pin(self) -> str:
        """Returns what clients recognise the agent by: `sha256:` and the SHA-256 of the authority's certificate."""
        der = self._authority()[1].public_bytes(serialization.Encoding.DER)
        return f"sha256:{hashlib.sha256(der).hexdigest()}"

    def authority_pem(self) -> bytes:
        return _pem(self._authority()[1])

    def server_pem(self) -> tuple[bytes, bytes]:
        """Returns the server's key, and its certificate with the authority's after it.

        Raises:
            InvalidRequestError: There is none, or others can read it.
        """
        content = self._read(SERVER_FILE)
        certificates = x509.load_pem_x509_certificates(content)
        return _key_pem(self._key(content, SERVER_FILE)), b"".join(map(_pem, certificates))

    def valid_until(self) -> datetime:
        """Returns until when the server's certificate is valid."""
        return x509.load_pem_x509_certificates(self._read(SERVER_FILE))[0].not_valid_after_utc

    def modified_ns(self) -> int:
        """Returns when the server's certificate was last renewed; of use to notice that it was."""
        return (self.folder / SERVER_FILE).stat().st_mtime_ns

    def _issue(self, name: str, host: str, usage: x509.ObjectIdentifier) -> tuple[x509.Certificate, bytes]:
        authority_key, authority = self._authority()
        key = _new_key()
        alternatives: list[x509.GeneralName] = [x509.DNSName(name)] if usage == ExtendedKeyUsageOID.SERVER_AUTH else []
        if host:
            try:
                alternatives.append(x509.IPAddress(ipaddress.ip_address(host)))
            except ValueError:
                alternatives.append(x509.DNSName(host))
        builder = (
            _builder(_name(name), authority.subject, key, LIFETIME)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        )
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        return builder.sign(authority_key, hashes.SHA256()), _key_pem(key)

    def _authority(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        content = self._read(AUTHORITY_FILE)
        return self._key(content, AUTHORITY_FILE), x509.load_pem_x509_certificate(content)

    def _key(self, content: bytes, name: str) -> ec.EllipticCurvePrivateKey:
        key = serialization.load_pem_private_key(content, password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise InvalidRequestError(f"{self.folder / name} has a key that nbgpu did not make")
        return key

    def _read(self, name: str) -> bytes:
        path = self.folder / name
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                content = file.read()
        except FileNotFoundError:
            raise InvalidRequestError(
                f"there is no certificate in {self.folder}", "make one: `nbgpu agent init --address HOST:PORT`"
            ) from None
        except OSError as error:
            raise InvalidRequestError(f"{path} cannot be read: {error.strerror}") from error
        if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & (stat.S_IRWXG | stat.S_IRWXO):
            raise InvalidRequestError(f"others can read the key in {path}", f"`chmod 600 {path}`")
        return content


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, lifetime: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + lifetime)
    )


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all, with access for its owner alone."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    os.replace(temporary, path)
