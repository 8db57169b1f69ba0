"""Receive webhooks, and believe only those that the service signed.

    MIEN_WEBHOOK_SECRET=whsec_… python webhook.py 9000

The messages are those of Standard Webhooks (https://www.standardwebhooks.com), so its libraries
check them as well; this is all that there is to it.
"""

import base64
import hashlib
import hmac
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

OLDEST = 300  # seconds: what is older may be a message that somebody recorded and sends again


def is_genuine(secret, headers, body, now=None):
    """Whether who knows the secret sent exactly this, and lately."""
    sent, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not timestamp.isdecimal() or abs((now or time.time()) - int(timestamp)) > OLDEST:
        return False
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = hmac.digest(key, f"{sent}.{timestamp}.".encode() + body, hashlib.sha256)
    wanted = "v1," + base64.b64encode(signed).decode()
    # There may be several, while a secret is being changed. Compared in constant time.
    given = headers.get("webhook-signature", "").split(" ")
    return any(hmac.compare_digest(wanted.encode(), one.encode()) for one in given)


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(min(int(self.headers.get("Content-Length", 0)), 1 << 20))
        genuine = is_genuine(os.environ["MIEN_WEBHOOK_SECRET"], self.headers, body)
        # Answer at once and do the work later: the service waits 10 s, then it tries again.
        # The same message may come twice; webhook-id says so.
        self.send_response(204 if genuine else 401)
        self.end_headers()
        if genuine:
            message = json.loads(body)
            print(message["type"], message["data"]["id"], flush=True)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 9000
    with ThreadingHTTPServer(("127.0.0.1", port), Receiver) as server:
        print(f"http://127.0.0.1:{server.server_port}/", flush=True)
        server.serve_forever()
