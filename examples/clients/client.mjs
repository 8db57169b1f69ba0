// Watch the server's camera of `mien live -o browser` from Node (20 or newer) or a page of your own.
//
//   node client.mjs http://127.0.0.1:8765/ 100
//
// The protocol is described in docs/protocol.md. Node 20 has no WebSocket without a flag, so
// `node --experimental-websocket client.mjs` is started again where it is needed.
import { spawnSync } from "node:child_process";

if (!globalThis.WebSocket) {
  const { status } = spawnSync(
    process.execPath,
    ["--experimental-websocket", "--no-warnings", ...process.argv.slice(1)],
    { stdio: "inherit" },
  );
  process.exit(status ?? 1);
}

function unpack(buffer) {
  const view = new DataView(buffer);
  if (view.getUint32(0, false) !== 0x4d49454e || view.getUint8(4) !== 1) {
    throw new Error("no picture of version 1");
  }
  const words = view.getUint32(12, true);
  return {
    swapped: (view.getUint16(6, true) & 1) === 1,
    frame: view.getUint32(8, true),
    captured: Number(view.getBigUint64(16, true)),
    age: view.getUint32(24, true),
    width: view.getUint16(28, true),
    height: view.getUint16(30, true),
    metadata: words ? JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 32, words))) : null,
    jpeg: new Uint8Array(buffer, 32 + words),
  };
}

const [address = "http://127.0.0.1:8765/", frames = "100"] = process.argv.slice(2);
const url = new URL(address);
const token = new URLSearchParams(url.hash.slice(1)).get("token") ?? "";
const socket = new WebSocket(`${url.protocol === "https:" ? "wss:" : "ws:"}//${url.host}/socket`);
socket.binaryType = "arraybuffer";
let count = 0;

// Say "accepted" only where it is true: those who are seen and the one whose face is used agreed.
socket.onopen = () =>
  socket.send(JSON.stringify({ type: "hello", role: "view", accepted: true, token, metadata: true }));
socket.onerror = () => fail(`${address} cannot be reached`);
socket.onmessage = ({ data }) => {
  if (typeof data === "string") {
    const words = JSON.parse(data);
    if (words.type === "error") fail(words.message);
    return;
  }
  const picture = unpack(data);
  socket.send(JSON.stringify({ type: "ack", frame: picture.frame }));
  count += 1;
  if (count === Number(frames)) {
    const faces = picture.metadata?.faces.length ?? 0;
    console.log(
      `${count} pictures of ${picture.width}x${picture.height}, ` +
        `${(picture.age / 1000).toFixed(0)} ms old when sent, ${faces} faces in the last`,
    );
    socket.close();
    process.exit(0);
  }
};

function fail(message) {
  console.error(message);
  process.exit(1);
}
