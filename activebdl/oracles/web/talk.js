// One page's session, and its calls of the server.

const PATIENCE = 15000; // milliseconds for the server's word

export let session = sessionStorage.session ?? crypto.randomUUID();

export async function claim() { // a tab that was duplicated has the other's session, and needs one of its own
  const alone = (name) => new Promise((resolve) => {
    const forever = () => { resolve(true); return new Promise(() => {}); };
    // A page that is loaded again waits until the one before has let go.
    navigator.locks.request(name, { signal: AbortSignal.timeout(500) }, forever).catch(() => resolve(false));
  });
  while (navigator.locks && !(await alone(session))) session = crypto.randomUUID();
  sessionStorage.session = session;
}

export class Refused extends Error {}
export class Busy extends Error {}

export async function call(verb, body = {}) {
  const response = await fetch(`/api/${verb}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ session, ...body }),
    signal: AbortSignal.timeout(PATIENCE),
  });
  const text = await response.text();
  let told = { error: "The server has failed." };
  try { told = JSON.parse(text); } catch {} // not ours: then it has
  if (response.status === 503) throw new Busy(told.error);
  if (told.error) throw new Refused(told.error);
  return { ...told, refused: response.status === 409 };
}
