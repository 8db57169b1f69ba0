// The page: what is chosen goes to the server, what comes back is drawn.
import { Connection, Figures } from "./protocol.js";
import { Peer, possible } from "./webrtc.js";

const $ = (id) => document.getElementById(id);
const hash = new URLSearchParams(location.hash.slice(1));
const token = hash.get("token") ?? "";
const canvas = $("picture");
const context = canvas.getContext("2d", { alpha: false });
const video = $("video");
const LABELS = {
  identity: "Face",
  strength: "Strength",
  faces: "Whose face is replaced",
  mark: "Words added to the label",
  on_miss: "When a face is missed",
  paused: "Paused: nothing is replaced",
  mask: "Hands and hair before a face are kept",
  recording: "Record to a file",
};

const WORDS = {
  all: "all of them", largest: "the largest", left: "the left one", right: "the right one",
  pass: "show the frame as it is", hold: "hold the last good picture",
  blur: "blur the whole frame", card: "show a card that says so",
};

let connection = null;
let camera = null; // what takes and sends pictures of this browser's camera
let peer = null; // while the picture comes by WebRTC
let way = "socket"; // by which it comes: webrtc or socket
let figures = new Figures();
let server = {};
let shown = 0;

const chosen = () => document.querySelector("input[name=role]:checked")?.value;
const say = (text) => { $("message").textContent = text; };

async function about() {
  let known = { server_camera: true, browser_cameras: true, webrtc: true };
  try {
    known = await (await fetch("/about")).json();
  } catch { /* the start says what is wrong */ }
  for (const radio of document.querySelectorAll("input[name=role]")) {
    const there = radio.value === "view" ? known.server_camera : known.browser_cameras;
    radio.disabled = !there;
    radio.checked = there && !chosen();
  }
  const wanted = document.querySelector(`input[name=role][value="${hash.get("role")}"]`);
  if (wanted && !wanted.disabled) wanted.checked = true;
  if (hash.get("size")) $("size").value = hash.get("size");
  if (!known.webrtc || !possible()) {
    $("way").value = "socket";
    for (const option of $("way").options) option.disabled = option.value !== "socket";
  } else if (hash.get("way")) $("way").value = hash.get("way");
  $("enrol").hidden = !known.enrol;
  $("accepted").checked = localStorage.getItem("mien-accepted") === "yes";
  document.body.classList.toggle("only", hash.has("only"));
  showRows();
  document.body.dataset.ready = "yes";
}

function showRows() {
  const own = chosen() === "camera";
  $("device-row").hidden = $("size-row").hidden = !own;
}

async function start() {
  if (connection) return;
  say("");
  const role = chosen();
  if (!role) return say("There is no camera to choose.");
  $("go").disabled = true;
  try {
    if (role === "camera") camera = await openCamera();
  } catch (error) {
    $("go").disabled = false;
    return say(`The camera cannot be opened: ${error.message}.`);
  }
  figures = new Figures();
  const url = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/socket`;
  const direct = $("way").value !== "socket";
  const hello = { role, accepted: $("accepted").checked, token, pictures: !direct };
  connection = new Connection(url, hello, {
    welcome: (message) => {
      localStorage.setItem("mien-accepted", "yes");
      running(true);
      if (message.values) showSettings(message);
      if (direct && message.webrtc) byPeer(message.webrtc, role);
      else bySocket();
    },
    stamps: ({ origin }) => { if (peer) peer.stamps.origin = origin; },
    taken: (taken) => { if (peer) peer.stamps.taken = taken; },
    swapped: ({ on }) => { document.body.dataset.swapped = on; },
    peer: ({ state, message }) => { if (state === "failed") peer?.gone(message); },
    settings: showSettings,
    statistics: ({ values, viewers }) => { server = { ...values, viewers }; },
    error: (message) => say(`${message[0].toUpperCase()}${message.slice(1)}.`),
    closed: stop,
    picture: (picture) => draw(picture, role),
  });
}

/** Enrol who is before this browser's camera: the server says what to do and looks whether it is done. */
async function enrol() {
  if (connection) return;
  say("");
  if (!$("accepted").checked) return say("Please read the notice above and agree to it first.");
  $("enrol-go").disabled = true;
  try {
    camera = await openCamera();
  } catch (error) {
    $("enrol-go").disabled = false;
    return say(`The camera cannot be opened: ${error.message}.`);
  }
  const url = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/socket`;
  const hello = { role: "camera", accepted: true, token, enrol: $("enrol-name").value };
  connection = new Connection(url, hello, {
    welcome: () => {
      running(true);
      $("settings").hidden = true;
      document.body.classList.add("enrolling");
      camera.own.className = "mirror";
      camera.own.setAttribute("aria-label", "Your camera, as in a mirror");
      $("stage").append(camera.own);
      camera.run(connection);
    },
    enrolment: ({ state, prompt, done, steps }) => {
      const text = `${prompt[0].toUpperCase()}${prompt.slice(1)}.`;
      document.body.dataset.enrolment = state;
      $("prompt").textContent = state === "running" ? `${done} of ${steps} done. ${text}` : "";
      if (state === "running") return;
      stop();
      say(text);
    },
    error: (message) => say(`${message[0].toUpperCase()}${message.slice(1)}.`),
    closed: stop,
    picture: (picture) => camera?.returned(picture.frame),
  });
}

/** Let the picture come by WebRTC; where that fails by the socket, unless it was asked for. */
async function byPeer(offered, role) {
  const mine = connection;
  const give_up = (reason) => {
    peer = null;
    if (connection !== mine) return;
    if ($("way").value === "webrtc") {
      stop();
      say(`WebRTC does not work here: ${reason}.`);
    } else {
      say(`WebRTC does not work here (${reason}), so the picture comes by WebSocket.`);
      bySocket();
    }
  };
  peer = new Peer(video, offered, camera?.stream ?? null, {
    frame: ({ rtp, now }) => {
      const age = role === "view"
        ? peer?.stamps.ageOfTheirs(rtp, now, connection?.clock.offset ?? 0)
        : peer?.stamps.ageOfOurs(rtp, now);
      count(now, age ?? null);
    },
    lost: give_up,
  });
  $("sound-row").hidden = !offered.sound;
  show("webrtc");
  const opened = peer;
  try {
    await opened.open();
  } catch (error) {
    if (peer === opened) give_up(error.message);
  }
}

function bySocket() {
  show("socket");
  connection?.send({ type: "pictures", on: true });
  camera?.run(connection);
}

function show(by) {
  if (by === "socket") $("sound-row").hidden = true;
  way = by;
  video.hidden = by !== "webrtc";
  canvas.hidden = by === "webrtc";
  document.body.dataset.way = by;
}

function stop() {
  peer?.close();
  peer = null;
  camera?.stop();
  connection?.close();
  camera = connection = null;
  running(false);
}

function running(on) {
  $("start").hidden = on;
  $("settings").hidden = $("stop").hidden = !on;
  $("go").disabled = $("enrol-go").disabled = false;
  document.body.classList.toggle("running", on);
  document.body.classList.remove("enrolling");
  $("prompt").textContent = "";
  if (!on) show("socket");
  $("figures").textContent = "";
  (on ? $("stop") : $("go")).focus();
}

async function draw(picture, role) {
  const bitmap = await createImageBitmap(new Blob([picture.jpeg], { type: "image/jpeg" }));
  if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
    canvas.width = bitmap.width;
    canvas.height = bitmap.height;
  }
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const now = performance.now();
  const there = role === "view" ? now * 1000 + (connection?.clock.offset ?? 0) : now * 1000;
  count(now, (there - picture.captured) / 1000);
  camera?.returned(picture.frame);
  Object.assign(document.body.dataset, { frame: picture.frame, swapped: picture.swapped });
}

/** A frame is on the page; scripts that measure listen for the event. */
function count(now, age) {
  figures.add(now, age);
  shown += 1;
  document.body.dataset.shown = shown;
  document.dispatchEvent(new CustomEvent("mien-frame", { detail: { now, age } }));
}

setInterval(() => {
  if (!connection) return;
  const { fps, p50, p95 } = figures.summary(performance.now());
  const [width, height] = way === "webrtc" ? [video.videoWidth, video.videoHeight] : [canvas.width, canvas.height];
  const more = [`${width}×${height}`, way === "webrtc" ? "WebRTC" : "WebSocket"];
  if (server.step_name) more.push(server.step_name);
  if (server.viewers > 1) more.push(`${server.viewers} viewers`);
  const age = p50 === null ? "age not known" : `age ${p50.toFixed(0)} ms, 95 %: ${p95.toFixed(0)} ms`;
  $("figures").textContent = `${fps.toFixed(0)} fps · ${age} · ${more.join(" · ")}`;
  const known = p50 === null ? {} : { p50: p50.toFixed(1), p95: p95.toFixed(1) };
  Object.assign(document.body.dataset, { fps: fps.toFixed(2), width, height, ...known });
}, 500);

async function openCamera() {
  if (!navigator.mediaDevices) {
    throw new Error("browsers allow it only on localhost and over https");
  }
  const [width, height] = $("size").value.split("x").map(Number);
  const device = $("device").value;
  const stream = await navigator.mediaDevices.getUserMedia({
    audio: false,
    video: { width, height, frameRate: { ideal: 30 }, ...(device ? { deviceId: { exact: device } } : {}) },
  });
  listDevices();
  const own = document.createElement("video");
  Object.assign(own, { srcObject: stream, muted: true, playsInline: true });
  const small = new OffscreenCanvas(width, height);
  const pen = small.getContext("2d", { alpha: false });
  let going = true;
  let frame = 0;
  let away = []; // numbers of pictures that have not come back
  let last = 0;

  async function take(to, now, seen) {
    // Two at a time: one on its way while the other is swapped. After a second it is tried anew.
    if (away.length >= 2 && now - last < 1000) return;
    if (away.length >= 2) away = [];
    last = now;
    const number = frame++;
    away.push(number);
    const captured = (seen ?? now) * 1000;
    const scale = Math.max(width / own.videoWidth, height / own.videoHeight);
    const w = own.videoWidth * scale, h = own.videoHeight * scale;
    pen.drawImage(own, (width - w) / 2, (height - h) / 2, w, h);
    const blob = await small.convertToBlob({ type: "image/jpeg", quality: 0.85 });
    to.sendPicture({ frame: number, captured, width, height }, await blob.arrayBuffer());
  }

  return {
    stream,
    own,
    returned: (number) => { away = away.filter((n) => n > number); },
    run(to) {
      const each = (now, data) => {
        if (!going) return;
        take(to, now, data?.captureTime);
        next();
      };
      const next = () => {
        if (own.requestVideoFrameCallback) own.requestVideoFrameCallback(each);
        else requestAnimationFrame(each);
      };
      // Only the socket needs its pixels; WebRTC takes the track as it is.
      own.play().then(next, () => {});
    },
    stop() {
      going = false;
      for (const track of stream.getTracks()) track.stop();
      own.srcObject = null;
      own.remove();
    },
  };
}

async function listDevices() {
  const devices = await navigator.mediaDevices.enumerateDevices();
  const kept = $("device").value;
  const cameras = devices.filter((d) => d.kind === "videoinput" && d.deviceId);
  $("device").replaceChildren(
    new Option("default", ""),
    ...cameras.map((d, n) => new Option(d.label || `camera ${n + 1}`, d.deviceId)),
  );
  $("device").value = kept;
}

function showSettings({ values, choices }) {
  const form = $("settings");
  const rows = Object.entries(values).filter(([key]) => choices[key]).map(([key, value]) => {
    const row = document.createElement("label");
    const range = typeof value === "number";
    const select = typeof value === "string" && choices[key].length > 0;
    const field = document.createElement(select ? "select" : "input");
    field.name = key;
    if (range) {
      Object.assign(field, { type: "range", min: choices[key][0], max: choices[key][1], step: 0.05 });
      field.value = value;
    } else if (typeof value === "boolean") {
      Object.assign(field, { type: "checkbox", checked: value, disabled: choices[key].length < 2 });
    } else if (!choices[key].length) {
      Object.assign(field, { type: "text", maxLength: 60, value });
    } else {
      field.append(...choices[key].map((choice) => new Option((key !== "identity" && WORDS[choice]) || choice, choice)));
      field.value = value;
    }
    field.addEventListener("change", () => {
      const now = range ? Number(field.value) : field.type === "checkbox" ? field.checked : field.value;
      connection?.set({ [key]: now });
    });
    if (field.type === "checkbox") row.append(field, ` ${LABELS[key] ?? key}`);
    else row.append(`${LABELS[key] ?? key} `, field);
    return row;
  });
  const focused = document.activeElement?.name;
  form.replaceChildren(...rows);
  if (focused) form.elements[focused]?.focus();
}

$("start").addEventListener("submit", (event) => { event.preventDefault(); start(); });
$("start").addEventListener("change", showRows);
$("settings").addEventListener("submit", (event) => event.preventDefault());
$("enrol").addEventListener("submit", (event) => { event.preventDefault(); enrol(); });
$("stop").addEventListener("click", stop);
$("sound").addEventListener("change", () => { video.muted = !$("sound").checked; });
addEventListener("pagehide", stop);
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, input[type=range], input[type=text]")) return;
  if (event.key === "s") {
    if (connection) stop();
    else $("start").requestSubmit();
  } else if (event.key === "f") {
    if (document.fullscreenElement) document.exitFullscreen();
    else $("stage").requestFullscreen();
  } else if (event.key === "h") $("figures").hidden = !$("figures").hidden;
});
about();
