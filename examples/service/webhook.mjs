// Receive webhooks, and believe only those that the service signed. Node 20 or newer.
//
//   MIEN_WEBHOOK_SECRET=whsec_… node webhook.mjs 9000
//
// The messages are those of Standard Webhooks (https://www.standardwebhooks.com), so its libraries
// check them as well; this is all that there is to it.
import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const oldest = 300; // seconds: what is older may be a message that somebody recorded

export function isGenuine(secret, headers, body, now = Date.now() / 1000) {
  const { "webhook-id": id, "webhook-timestamp": timestamp, "webhook-signature": given = "" } = headers;
  if (!/^\d+$/.test(timestamp ?? "") || Math.abs(now - Number(timestamp)) > oldest) return false;
  const key = Buffer.from(secret.replace(/^whsec_/, ""), "base64");
  const signed = createHmac("sha256", key).update(`${id}.${timestamp}.`).update(body).digest("base64");
  const wanted = Buffer.from(`v1,${signed}`);
  // There may be several, while a secret is being changed. Compared in constant time.
  return given
    .split(" ")
    .map((one) => Buffer.from(one))
    .some((one) => one.length === wanted.length && timingSafeEqual(one, wanted));
}

const server = createServer(async (request, response) => {
  const pieces = [];
  for await (const piece of request) pieces.push(piece);
  const body = Buffer.concat(pieces);
  const genuine = isGenuine(process.env.MIEN_WEBHOOK_SECRET, request.headers, body);
  // Answer at once and do the work later: the service waits 10 s, then it tries again.
  // The same message may come twice; webhook-id says so.
  response.writeHead(genuine ? 204 : 401).end();
  if (!genuine) return;
  const message = JSON.parse(body);
  console.log(message.type, message.data.id);
});
server.listen(Number(process.argv[2] ?? 9000), "127.0.0.1", () =>
  console.log(`http://127.0.0.1:${server.address().port}/`),
);
