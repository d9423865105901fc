const TOKEN = sessionStorage.getItem("loramux-token");

/** Error with a text for people. */
class ServerError extends Error {
  constructor(status, message, waitMs = 0) {
    super(message);
    this.status = status;
    this.waitMs = waitMs;
  }
}

/** Calls the server, below where the page is. Throws ServerError. */
async function call(path, options = {}) {
  const headers = { ...options.headers };
  if (TOKEN) {
    headers.authorization = `Bearer ${TOKEN}`;
  }
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") {
      throw error;
    }
    throw new ServerError(0, "The server cannot be reached.");
  }
  if (answer.status === 401) {
    leave();
  }
  if (!answer.ok) {
    const waitMs = Number(answer.headers.get("retry-after-ms") || 0);
    throw new ServerError(answer.status, await reason(answer), waitMs);
  }
  return answer;
}

async function get(path) {
  return (await call(path)).json();
}

async function reason(answer) {
  try {
    return (await answer.json()).error.message;
  } catch {
    return `The server answers ${answer.status}.`;
  }
}

/** Forgets the token; the server asks for one in the page's place. */
function leave() {
  sessionStorage.removeItem("loramux-token");
  location.reload();
}

/** Gives a promise that is kept after a time. */
function pause(ms) {
  return new Promise((done) => setTimeout(done, ms));
}

/** Gives a promise that is kept once the page can be seen. */
function seen() {
  if (!document.hidden) {
    return Promise.resolve();
  }
  return new Promise((done) => document.addEventListener("visibilitychange", done, { once: true }));
}
