// Calls to the server, and the outbox that keeps a judgement until the server has said it is stored.

const csrf = document.querySelector('meta[name="csrf"]').content;

export class Fault extends Error {
  // status 0: no connection or no answer in time.
  constructor(status, reason, message) {
    super(message);
    this.status = status;
    this.reason = reason;
  }

  get transient() {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

export async function call(path, body, { timeout = 10000, keepalive = false } = {}) {
  let response;
  try {
    response = await fetch(`/api/${path}`, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-CSRF-Token": csrf },
      body: JSON.stringify(body ?? {}),
      signal: AbortSignal.timeout(timeout),
      keepalive,
    });
  } catch {
    throw new Fault(0, "offline", "");
  }
  const text = await response.text().catch(() => null);
  let data = null;
  try {
    data = JSON.parse(text);
  } catch {
    // A cut-off answer says nothing about what was stored; the same key may be sent again.
    throw new Fault(response.ok ? 0 : response.status, "offline", "");
  }
  if (!response.ok) throw new Fault(response.status, data.reason, data.error);
  return data;
}

export const newKey = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");

const pause = (ms) =>
  new Promise((resolve) => {
    const timer = setTimeout(done, ms);
    function done() {
      clearTimeout(timer);
      removeEventListener("online", done);
      resolve();
    }
    addEventListener("online", done);
  });

export class Outbox {
  // One judgement at a time; it survives a reload, and its key makes sending it again harmless.
  constructor(owner) {
    this.name = `alignloop.outbox.${owner}`;
  }

  pending() {
    try {
      return JSON.parse(localStorage.getItem(this.name));
    } catch {
      return null;
    }
  }

  async send(submission, onWait) {
    localStorage.setItem(this.name, JSON.stringify(submission));
    for (let wait = 500; ; wait = Math.min(wait * 2, 8000)) {
      try {
        const receipt = await call("judge", submission);
        localStorage.removeItem(this.name);
        return receipt;
      } catch (fault) {
        if (!(fault instanceof Fault) || !fault.transient) {
          localStorage.removeItem(this.name);
          throw fault;
        }
        onWait(fault);
        await pause(wait);
      }
    }
  }
}
