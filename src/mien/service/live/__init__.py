"""Live sessions: who may open a socket, what it shows, and the process that swaps its pictures.

Sockets, WebRTC and shared memory are those of :mod:`mien.serve`; here is what a service adds:
tenants, tickets, limits, and ends.
"""

from __future__ import annotations

from mien.service.live.session import Session
from mien.service.live.sessions import TICKET_SECONDS, Live

__all__ = ["TICKET_SECONDS", "Live", "Session"]
