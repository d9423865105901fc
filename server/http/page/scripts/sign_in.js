const KEY = "loramux-token";
const form = document.getElementById("sign-in");
const input = document.getElementById("token");
const said = document.getElementById("said");
// What becomes markup here is the server's own page, and nothing else.
const policy = window.trustedTypes?.createPolicy("loramux", { createHTML: (text) => text });

async function open(token) {
  const answer = await fetch(location.pathname, {
    headers: { authorization: `Bearer ${token}` },
    cache: "no-store",
  });
  if (answer.status === 401) {
    sessionStorage.removeItem(KEY);
    return "The server does not know this token.";
  }
  if (!answer.ok) {
    return `The server answers ${answer.status}.`;
  }
  sessionStorage.setItem(KEY, token);
  const page = await answer.text();
  document.open();
  document.write(policy ? policy.createHTML(page) : page);
  document.close();
  return "";
}

async function attempt(token) {
  form.querySelector("button").disabled = true;
  said.textContent = "";
  try {
    said.textContent = await open(token);
  } catch {
    said.textContent = "This is no token, or the server cannot be reached.";
  }
  form.querySelector("button").disabled = false;
  form.hidden = false;
  input.select();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(input.value.trim());
});

const kept = sessionStorage.getItem(KEY);
if (kept) {
  form.hidden = true; // until it is clear that the token is no longer good
  attempt(kept);
}
