// The protocol of docs/protocol.md: nothing here touches the page, so that scripts may use it too.

export const HEADER = 32;
export const VERSION = 1;
const MAGIC = 0x4e45494d; // "MIEN", little-endian

/** Put a picture together: {frame, captured (µs)}, and the JPEG as ArrayBuffer. */
export function pack({ frame, captured, width = 0, height = 0 }, jpeg) {
  const message = new Uint8Array(HEADER + jpeg.byteLength);
  const view = new DataView(message.buffer);
  view.setUint32(0, MAGIC, true);
  view.setUint8(4, VERSION);
  view.setUint8(5, 1);
  view.setUint32(8, frame >>> 0, true);
  view.setBigUint64(16, BigInt(Math.round(captured)), true);
  view.setUint16(28, width, true);
  view.setUint16(30, height, true);
  message.set(new Uint8Array(jpeg), HEADER);
  return message;
}

/** Take a picture apart; throws where it is none. */
export function unpack(buffer) {
  const view = new DataView(buffer);
  if (buffer.byteLength < HEADER || view.getUint32(0, true) !== MAGIC) {
    throw new Error("expected a picture that begins with MIEN");
  }
  if (view.getUint8(4) !== VERSION || view.getUint8(5) !== 1) {
    throw new Error(`expected version ${VERSION}, kind 1`);
  }
  const words = view.getUint32(12, true);
  if (HEADER + words > buffer.byteLength) throw new Error("the message is cut off");
  return {
    swapped: (view.getUint16(6, true) & 1) === 1,
    frame: view.getUint32(8, true),
    captured: Number(view.getBigUint64(16, true)),
    age: view.getUint32(24, true),
    width: view.getUint16(28, true),
    height: view.getUint16(30, true),
    metadata: words
      ? JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, HEADER, words)))
      : null,
    jpeg: new Uint8Array(buffer, HEADER + words),
  };
}

/** How far the server's clock is ahead of ours, from the quickest answers to pings. */
export class Clock {
  #best = Infinity;
  offset = 0; // microseconds

  /** Learn from an answer: all in microseconds, sent and received on our clock. */
  learn(sent, received, server) {
    const trip = received - sent;
    if (trip <= this.#best * 1.05) {
      this.#best = Math.min(this.#best, trip);
      this.offset = server - (sent + received) / 2;
    }
  }
}

/** Frames a second and ages over the last two seconds; null for an age that is not known. */
export class Figures {
  #seen = [];

  add(now, age) {
    this.#seen.push({ now, age });
    while (this.#seen.length && this.#seen[0].now < now - 2000) this.#seen.shift();
  }

  summary(now) {
    const seen = this.#seen.filter((s) => s.now >= now - 2000);
    const ages = seen.map((s) => s.age).filter((age) => age !== null).sort((a, b) => a - b);
    const at = (share) => (ages.length ? ages[Math.min(ages.length - 1, Math.floor(share * ages.length))] : null);
    const span = seen.length > 1 ? (seen[seen.length - 1].now - seen[0].now) / 1000 : 0;
    return { fps: span > 0 ? (seen.length - 1) / span : 0, p50: at(0.5), p95: at(0.95) };
  }
}

/**
 * One connection. Handlers: picture({...}), welcome, settings, statistics, error(message), closed().
 * A picture is acknowledged when its handler is done, so that the server never sends more than we show.
 */
export class Connection {
  clock = new Clock();
  #socket;
  #timer;

  constructor(url, hello, handlers, { Socket = globalThis.WebSocket } = {}) {
    this.handlers = handlers;
    this.#socket = new Socket(url);
    this.#socket.binaryType = "arraybuffer";
    this.#socket.onopen = () => this.send({ type: "hello", ...hello });
    this.#socket.onmessage = (event) => this.#receive(event.data);
    this.#socket.onclose = () => {
      clearInterval(this.#timer);
      this.handlers.closed?.();
    };
  }

  get open() {
    return this.#socket.readyState === 1;
  }

  send(message) {
    if (this.open) this.#socket.send(JSON.stringify(message));
  }

  sendPicture(header, jpeg) {
    if (this.open) this.#socket.send(pack(header, jpeg));
  }

  set(values) {
    this.send({ type: "set", values });
  }

  close() {
    this.#socket.close();
  }

  async #receive(data) {
    if (typeof data !== "string") {
      const picture = unpack(data);
      try {
        await this.handlers.picture?.(picture);
      } finally {
        this.send({ type: "ack", frame: picture.frame });
      }
      return;
    }
    const { type, ...message } = JSON.parse(data);
    if (type === "pong") this.clock.learn(message.sent, performance.now() * 1000, message.clock);
    else this.handlers[type]?.(type === "error" ? message.message : message);
    if (type === "welcome") {
      const ping = () => this.send({ type: "ping", sent: performance.now() * 1000 });
      ping();
      this.#timer = setInterval(ping, 2000);
    }
  }
}
