// The service from JavaScript: an identity, a swapped photo, and a swapped clip with its progress.
// Node 20 or newer; the class works in a page as well, where the server's `cors` names its origin.
// Keep keys out of pages that others see: let a server of your own ask.
//
//   MIEN_KEY=mien_… node client.mjs http://127.0.0.1:8000 me.jpg photo.jpg clip.mp4 [FOLDER]
//
// The consent said below is yours to have: see docs/consent.md.

export class Mien {
  // patience: seconds for which a busy server is asked again
  constructor(url, key = "", patience = 60) {
    this.url = `${url.replace(/\/$/, "")}/v1/`;
    this.headers = key ? { Authorization: `Bearer ${key}` } : {};
    this.patience = patience;
  }

  // Send a request; again, after as long as the server says, while it is too busy.
  async ask(method, path, { headers = {}, ...said } = {}) {
    const until = Date.now() + this.patience * 1000;
    for (;;) {
      const answer = await fetch(this.url + path, {
        method,
        headers: { ...this.headers, ...headers },
        ...said,
      });
      if (answer.ok) return answer;
      const wait = Number(answer.headers.get("Retry-After")) * 1000;
      const busy = (answer.status === 429 || answer.status === 503) && wait;
      if (!busy || Date.now() + wait > until) {
        const problem = await answer.json();
        throw new Error(`${problem.title}: ${problem.detail}`);
      }
      await new Promise((done) => setTimeout(done, wait));
    }
  }

  // Enrol a person; photos are File objects. Gives the identity.
  async enrol(photos, consent, name = "") {
    const body = new FormData();
    for (const photo of photos) body.append("photos", photo);
    body.set("consent", consent);
    body.set("name", name);
    return (await this.ask("POST", "identities", { body })).json();
  }

  // A picture with the person's face, as a Blob.
  async swap(identity, target) {
    const body = new FormData();
    body.set("identity", identity);
    body.set("target", target);
    return (await this.ask("POST", "swaps", { body })).blob();
  }

  // Let a video be swapped; gives the job. Asked again, it is still one job.
  async start(identity, target, more = {}) {
    const body = new FormData();
    body.set("identity", identity);
    body.set("target", target);
    for (const [name, value] of Object.entries(more)) body.set(name, value);
    const headers = { "Idempotency-Key": crypto.randomUUID() };
    return (await this.ask("POST", "jobs", { headers, body })).json();
  }

  // What happens to a job, until it ends; goes on where a connection broke. EventSource would do,
  // but it cannot send a key.
  async *events(job) {
    let last = "0";
    for (;;) {
      try {
        const headers = { "Last-Event-ID": last };
        const answer = await this.ask("GET", `jobs/${job}/events`, { headers });
        let text = "";
        for await (const piece of answer.body.pipeThrough(new TextDecoderStream())) {
          text += piece;
          for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
            const event = Object.fromEntries(
              text.slice(0, end).split("\n").map((line) => line.split(/: ?(.*)/s, 2)),
            );
            if (!event.data) continue;
            last = event.id ?? last;
            yield { kind: event.event, ...JSON.parse(event.data) };
            if (["done", "failed", "canceled"].includes(event.event)) return;
          }
        }
      } catch (error) {
        if (!(error instanceof TypeError)) throw error; // fetch's word for a broken connection
      }
      await new Promise((done) => setTimeout(done, 1000));
    }
  }

  // A job's result, as a stream of bytes.
  async result(job) {
    return (await this.ask("GET", `jobs/${job}/result`)).body;
  }

  // Withdraw a consent: the identity goes, its jobs stop, their results are removed.
  async forget(identity) {
    await this.ask("DELETE", `identities/${identity}`);
  }
}

if (globalThis.process?.argv[1]?.endsWith("client.mjs")) {
  const { openAsBlob } = await import("node:fs");
  const { writeFile } = await import("node:fs/promises");
  const { basename, join } = await import("node:path");
  const [url, portrait, photo, clip, folder = "."] = process.argv.slice(2);
  const file = async (path) => new File([await openAsBlob(path)], basename(path));

  const mien = new Mien(url, process.env.MIEN_KEY);
  const consent = process.env.MIEN_CONSENT ?? "self";
  const person = await mien.enrol([await file(portrait)], consent, "me");
  console.log(`identity ${person.id}`);

  const picture = await mien.swap(person.id, await file(photo));
  await writeFile(join(folder, "swapped.jpg"), picture.stream());
  console.log("wrote swapped.jpg");

  const job = await mien.start(person.id, await file(clip));
  for await (const { kind, ...said } of mien.events(job.id)) console.log(kind, said);
  await writeFile(join(folder, "swapped.mp4"), await mien.result(job.id));
  console.log("wrote swapped.mp4");
}
