// The service, as this page asks it. The key lives in this tab alone.

const KEY = "pointsman-key";
const PAUSE_MS = 2000;

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const setKey = (key) => sessionStorage.setItem(KEY, key);

async function ask(path, signal) {
  const key = sessionStorage.getItem(KEY);
  const response = await fetch(path, { headers: key ? { authorization: `Bearer ${key}` } : {}, signal, cache: "no-store" });
  if (response.ok) return response;
  const said = await response.json().catch(() => null);
  throw new Refused(response.status, said?.error?.message ?? `the service answered ${response.status}`);
}

export const getJson = async (path) => (await ask(path)).json();

/** What is at the path; null where there is nothing. */
export async function getBlob(path) {
  const response = await ask(path);
  return response.status === 204 ? null : response.blob();
}

/**
 * Follow the stream of what is shown until `signal` aborts: `onParts` gets what has changed, and whether it is the beginning;
 * `onState` is told "live" or "away"; a refused key ends it with Refused.
 */
export async function follow(seconds, signal, onParts, onState) {
  while (!signal.aborted) {
    try {
      const response = await ask(`/v1/live?seconds=${seconds}`, signal);
      let first = true;
      for await (const [kind, parts] of events(response.body)) {
        if (kind === "away") throw new Error("the store is away");
        onState("live");
        onParts(parts, first);
        first = false;
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Refused && [401, 403].includes(error.status)) throw error;
      onState("away");
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    }
  }
}

/** Server-sent events of a body. EventSource would do, but it sends no key. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    const whole = text.split("\n\n");
    text = whole.pop();
    for (const event of whole) {
      const lines = event.split("\n");
      const field = (name) => lines.find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
      yield [field("event") ?? "message", JSON.parse(field("data"))];
    }
  }
}
