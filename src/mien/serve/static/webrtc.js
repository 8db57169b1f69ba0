// WebRTC beside the socket of protocol.js: the picture comes as a track, words stay on the socket.

/** Whether this browser can. */
export const possible = () => "RTCPeerConnection" in globalThis;

const TICKS = 90; // in a millisecond of RTP's video clock
const WRAP = 2 ** 32;

/**
 * When frames were captured, from the time stamps that come with them.
 *
 * The server says where its track's stamps begin (`stamps`). Those of its own camera count on its
 * clock; those of ours are what we sent, and `taken` says which of them was when on our own.
 */
export class Stamps {
  origin = null;
  taken = null;

  /** Milliseconds since the capture of a frame of the server's camera; the clock is in µs. */
  ageOfTheirs(rtp, now, offset) {
    if (rtp === undefined || this.origin === null) return null;
    const there = (now * 1000 + offset) * (TICKS / 1000);
    const age = (((there - (rtp - this.origin)) % WRAP) + WRAP) % WRAP;
    return (age > WRAP / 2 ? age - WRAP : age) / TICKS; // the clock may be off by a little
  }

  /** The same for a frame of our camera that has come back. */
  ageOfOurs(rtp, now) {
    if (rtp === undefined || this.origin === null || this.taken === null) return null;
    let since = (((rtp - this.origin - this.taken.stamp) % WRAP) + WRAP) % WRAP;
    if (since > WRAP / 2) since -= WRAP;
    return performance.timeOrigin + now - (this.taken.wall + since / TICKS);
  }
}

/** One connection. Handlers: frame({rtp, now}), lost(reason). */
export class Peer {
  stamps = new Stamps();
  #connection;
  #video;
  #handlers;
  #closed = false;
  #stream = new MediaStream();

  /**
   * video: an element to show the picture in; camera: a MediaStream to send, or null.
   */
  constructor(video, { ticket, ice, sound }, camera, handlers) {
    this.#video = video;
    this.#handlers = handlers;
    this.#connection = new RTCPeerConnection({ iceServers: ice, bundlePolicy: "max-bundle" });
    this.ticket = ticket;
    this.ice = ice;
    this.camera = camera;
    this.sound = sound;
  }

  /** Connect; resolves with the first frame shown, and throws where there is none in time. */
  async open(seconds = 10) {
    const connection = this.#connection;
    const track = this.camera?.getVideoTracks()[0];
    if (track) track.contentHint = "motion";
    const transceiver = connection.addTransceiver(track ?? "video", {
      direction: track ? "sendrecv" : "recvonly",
    });
    const known = RTCRtpReceiver.getCapabilities("video").codecs;
    const order = ["video/H264", "video/VP8", "video/rtx"];
    transceiver.setCodecPreferences(
      known.filter((c) => order.includes(c.mimeType))
        .sort((a, b) => order.indexOf(a.mimeType) - order.indexOf(b.mimeType)),
    );
    if (this.sound) connection.addTransceiver("audio", { direction: "recvonly" });
    connection.ontrack = ({ track: came, receiver }) => {
      // Nothing is to be gained by waiting: what is late is shown late, what is early at once.
      if ("jitterBufferTarget" in receiver) receiver.jitterBufferTarget = 0;
      if ("playoutDelayHint" in receiver) receiver.playoutDelayHint = 0;
      this.#stream.addTrack(came);
    };
    connection.onconnectionstatechange = () => {
      if (connection.connectionState === "failed") this.#lose("the connection was lost");
    };
    let first;
    const shown = new Promise((resolve, reject) => { first = { resolve, reject }; });
    const timer = setTimeout(() => first.reject(new Error("no picture came in time")), seconds * 1000);
    this.failed = (reason) => first.reject(new Error(reason));
    shown.catch(() => {});
    try {
      await connection.setLocalDescription(await connection.createOffer());
      await this.#limit(transceiver);
      if (this.ice.length) await this.#gathered();
      const response = await fetch("/webrtc", {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ ticket: this.ticket, sdp: connection.localDescription.sdp }),
      });
      const answer = await response.json().catch(() => ({ error: response.statusText }));
      if (!response.ok) throw new Error(answer.error);
      await connection.setRemoteDescription(answer);
      this.#video.srcObject = this.#stream;
      this.#watch(first.resolve);
      await shown;
    } catch (error) {
      this.close();
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  /** A TURN server has to be told of our addresses; they are waited for, but not for long. */
  #gathered() {
    const connection = this.#connection;
    return new Promise((resolve) => {
      setTimeout(resolve, 3000);
      const look = () => { if (connection.iceGatheringState === "complete") resolve(); };
      connection.addEventListener("icegatheringstatechange", look);
      look();
    });
  }

  /** What our camera sends is for a machine that sees each frame: rather fewer pixels than frames. */
  async #limit({ sender }) {
    if (!this.camera) return;
    const parameters = sender.getParameters();
    if (!parameters.encodings?.length) return;
    parameters.degradationPreference = "maintain-framerate";
    parameters.encodings[0].maxBitrate = 4_000_000;
    await sender.setParameters(parameters).catch(() => {});
  }

  #watch(first) {
    const video = this.#video;
    const each = (now, data) => {
      if (this.#closed) return;
      first();
      this.#handlers.frame({ rtp: data?.rtpTimestamp, now: performance.now() });
      next();
    };
    const next = () => {
      if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(each);
      else requestAnimationFrame(each);
    };
    next();
    video.play().catch(() => {});
  }

  /** The server said that it gave up. */
  gone(reason) {
    this.failed?.(reason);
    this.#lose(reason);
  }

  #lose(reason) {
    if (this.#closed) return;
    this.close();
    this.#handlers.lost(reason);
  }

  close() {
    if (this.#closed) return;
    this.#closed = true;
    this.#connection.close();
    for (const track of this.#stream.getTracks()) track.stop();
    this.#video.srcObject = null;
  }
}
