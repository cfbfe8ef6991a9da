"""Whether a model hub answers, and what to do where it does not."""

from __future__ import annotations

import http.client
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping

from orchestrator.checks.doctor.finding import Finding, State
from orchestrator.machine.hub import find_endpoint, is_offline, is_web_address, open_address
from orchestrator.machine.secrets import redact_text

HUB_TIMEOUT_S = 3.0
_MIRROR = "a mirror: export HF_ENDPOINT=https://hf-mirror.com; or download elsewhere, and give a folder as model"


class HubProbe:
    """A question to the hub that is under way while other things are looked at."""

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        """Ask the hub of `env` (HF_ENDPOINT); nobody is asked where HF_HUB_OFFLINE forbids it."""
        env = os.environ if env is None else env
        self._endpoint = find_endpoint(env).rstrip("/")
        self._offline = is_offline(env)
        self._said: str | None = None
        self._reached = False
        self._thread = threading.Thread(target=self._ask, daemon=True)  # a name that never resolves has no timeout
        if not self._offline:
            self._thread.start()

    def finding(self, wanted: tuple[str, ...] = ()) -> Finding:
        """Return what the hub said, after at most HUB_TIMEOUT_S seconds; `wanted` are hub ids that are not here yet."""
        shown = redact_text(self._endpoint, ())
        state: State = "missing" if wanted else "note"
        lacking = f", and {' and '.join(wanted)} must be downloaded" if wanted else ""
        if self._offline:
            said = f"not asked: HF_HUB_OFFLINE is set{lacking}"
            return Finding("hub", shown, state, said, "unset it to download models")
        self._thread.join(HUB_TIMEOUT_S)
        if self._reached:
            return Finding("hub", shown, "ok", self._said or "answers")
        said = self._said or f"no answer within {HUB_TIMEOUT_S:.0f} s"
        return Finding("hub", shown, state, f"cannot be reached: {said}{lacking}", _MIRROR)

    def _ask(self) -> None:
        if not is_web_address(self._endpoint):
            self._said = "HF_ENDPOINT is no web address: it begins with https://"
            return
        request = urllib.request.Request(self._endpoint, method="HEAD")  # noqa: S310  (checked above)
        try:
            with open_address(request, HUB_TIMEOUT_S):
                self._said, self._reached = "answers", True
        except urllib.error.HTTPError as error:
            self._said, self._reached = f"answers ({error.code})", error.code < 500  # noqa: PLR2004
        except http.client.HTTPException:  # its words may repeat the address, password included
            self._said = "what answers there, or the address itself, is no HTTP"
        except (OSError, ValueError) as error:
            self._said = str(getattr(error, "reason", error))
