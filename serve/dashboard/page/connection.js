// The line to the gateway: events by fetch (which can carry a key, as EventSource cannot), again
// and again, with what is to be said about the line itself.

const SILENCE_MS = 10_000; // No word for so long, though one comes each second: the line is dead.
const PAUSES_MS = [500, 1000, 2000, 4000, 8000];
const UNAUTHORIZED = 401;

export class Connection {
  // `heard(event, data)` takes what comes; `told(state, reason)` what becomes of the line:
  // connecting, live, lost, unauthorized.
  constructor(url, { heard, told, key }) {
    this.url = url;
    this.heard = heard;
    this.told = told;
    this.key = key;
    this.failures = 0;
    this.wake = () => {};
    addEventListener("online", () => this.wake());
  }

  async run() {
    for (;;) {
      let reason = "";
      try {
        if (await this.once()) continue;
        reason = "the gateway has closed the line";
      } catch (error) {
        reason = error.reason ?? "the gateway cannot be reached";
        if (error.status === UNAUTHORIZED) {
          this.told("unauthorized", reason);
          await new Promise((resolve) => { this.wake = resolve; });
          this.failures = 0;
          continue;
        }
      }
      const pause = PAUSES_MS[Math.min(this.failures, PAUSES_MS.length - 1)];
      this.failures += 1;
      this.told("lost", reason);
      await new Promise((resolve) => {
        this.wake = resolve;
        setTimeout(resolve, pause * (0.75 + Math.random() / 2));
      });
    }
  }

  // Listen until the line ends; true if the gateway asks to come again.
  async once() {
    const abort = new AbortController();
    let watchdog = setTimeout(() => abort.abort(), SILENCE_MS);
    try {
      const key = this.key();
      const headers = key ? { authorization: `Bearer ${key}` } : {};
      const response = await fetch(this.url, { headers, cache: "no-store", signal: abort.signal });
      if (!response.ok) throw await refusal(response);
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return false;
        clearTimeout(watchdog);
        watchdog = setTimeout(() => abort.abort(), SILENCE_MS);
        text += value.replaceAll("\r", "");
        const blocks = text.split("\n\n");
        text = blocks.pop();
        for (const { event, data } of blocks.map(parsed)) {
          if (event === "again") {
            await reader.cancel();
            return true;
          }
          if (event) this.receive(event, data);
        }
      }
    } finally {
      clearTimeout(watchdog);
      abort.abort();
    }
  }

  receive(event, data) {
    this.failures = 0;
    this.told("live", "");
    this.heard(event, JSON.parse(data));
  }
}

function parsed(block) {
  let event = "";
  const data = [];
  for (const line of block.split("\n")) {
    if (line.startsWith("event:")) event = line.slice(6).trim();
    else if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
  }
  return { event, data: data.join("\n") };
}

async function refusal(response) {
  const error = new Error();
  error.status = response.status;
  try {
    error.reason = (await response.json()).error.message;
  } catch {
    error.reason = `the gateway answers ${response.status}`;
  }
  return error;
}
