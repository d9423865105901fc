"""An authority and certificates of its own for a release's Services, by openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path

from scenarios.release import Release

_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]


class Authority:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._make("ca", "/CN=cluster-test", "-addext", "basicConstraints=critical,CA:TRUE")
        self.certificate = (folder / "ca.crt").read_bytes()

    def issue(self, release: Release) -> dict[str, bytes]:
        """A new certificate for the Services' names, as overlay.secret takes a Secret's files."""
        names = [
            f"DNS:{service}{end}"
            for service in (release.full, release.router)
            for end in ("", f".{release.namespace}.svc", f".{release.namespace}.svc.cluster.local")
        ]
        more = ["-CA", "ca.crt", "-CAkey", "ca.key", "-addext", "basicConstraints=CA:FALSE"]
        self._make(
            "tls", f"/CN={release.full}", *more, "-addext", f"subjectAltName={','.join(names)}"
        )
        files = {f"tls_{end}": (self._folder / f"tls.{end}").read_bytes() for end in ("crt", "key")}
        return files | {"ca_crt": self.certificate}

    def _make(self, name: str, subject: str, *more: str) -> None:
        out = ["-out", f"{name}.crt", "-keyout", f"{name}.key", "-subj", subject]
        command = ["openssl", "req", "-x509", *_KEY, *out, *more]
        subprocess.run(command, cwd=self._folder, check=True, capture_output=True)
