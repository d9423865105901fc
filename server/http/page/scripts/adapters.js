/** Pixels of a line. */
const LINE = 40;
const BEYOND = 6;
const FIELDS = 8;
const TIERS = {
  ADAPTER_STATE_COLD: ["at its source", ""],
  ADAPTER_STATE_LOADING: ["loading", "loading"],
  ADAPTER_STATE_HOST: ["host memory", "host"],
  ADAPTER_STATE_DEVICE: ["in a slot", "device"],
  ADAPTER_STATE_FAILED: ["failed", "bad"],
  ADAPTER_STATE_OUT_OF_SERVICE: ["out of service", "bad"],
};
const KINDS = {
  all: () => true,
  "in a slot": (one) => one.state === "ADAPTER_STATE_DEVICE",
  "in host memory": (one) => one.state === "ADAPTER_STATE_HOST",
  "at their sources": (one) => one.state === "ADAPTER_STATE_COLD",
  "failed or out of service": (one) => TIERS[one.state]?.[1] === "bad",
  "with a canary": (one) => Boolean(one.canary),
  pinned: (one) => Boolean(one.policy?.pinned),
};
const pages = new Pages();
const rows = new Map();
let shownLines = [];

/** Shows the lines in view of those that are looked for. */
function showAdapters() {
  const words = $("search").value.trim().toLowerCase();
  const isKind = KINDS[$("kind").value];
  const found = pages.lines.filter(
    ({ adapter }) => isKind(adapter) && adapter.adapter_id.toLowerCase().includes(words),
  );
  const scroller = $("scroller");
  const height = Math.ceil(scroller.clientHeight / LINE);
  const last = Math.max(0, found.length - height);
  const start = Math.max(0, Math.min(Math.floor(scroller.scrollTop / LINE), last) - BEYOND);
  shownLines = found.slice(start, start + height + 2 * BEYOND);
  fillGap($("above"), start);
  fillGap($("below"), found.length - start - shownLines.length);
  $("table").setAttribute("aria-rowcount", found.length + 1);
  placeRows(start);
  sayFound(found.length);
}

function sayFound(count) {
  const read = pages.isPartial ? `, ${whole(pages.lines.length)} read` : "";
  say($("found"), `${whole(count)} of ${whole(pages.total)}${read}`);
}

function fillGap(body, lines) {
  if (!body.firstChild) {
    body.append(make("tr", { "aria-hidden": "true" }, make("td", { colspan: FIELDS })));
  }
  body.hidden = lines === 0;
  body.firstChild.style.height = `${lines * LINE}px`;
}

/** Puts the rows of shownLines in their places; those that are there stay, with the focus on them. */
function placeRows(start) {
  const wanted = new Set(shownLines.map(({ adapter }) => adapter.adapter_id));
  for (const [id, row] of rows) {
    if (!wanted.has(id)) {
      if (row.contains(document.activeElement)) {
        $("scroller").focus({ preventScroll: true });
      }
      row.remove();
      rows.delete(id);
    }
  }
  shownLines.forEach(({ adapter }, i) => {
    const row = rows.get(adapter.adapter_id) || makeRow(adapter.adapter_id);
    fillRow(row, adapter);
    row.setAttribute("aria-rowindex", start + i + 2);
    if ($("lines").children[i] !== row) {
      $("lines").insertBefore(row, $("lines").children[i] || null);
    }
  });
}

function makeRow(id) {
  const open = make("button", { type: "button", title: id, "aria-haspopup": "dialog" }, id);
  open.addEventListener("click", () => showDetails(rows.get(id).adapter));
  const row = make("tr", {}, make("th", { scope: "row" }, open));
  for (let i = 1; i < FIELDS; i += 1) {
    row.append(make("td", i > 4 ? { class: "number" } : {}));
  }
  rows.set(id, row);
  return row;
}

function fillRow(row, adapter) {
  row.adapter = adapter;
  const [, state, version, canary, policy, rank, size, requests] = row.children;
  const [text, kind] = TIERS[adapter.state] || ["", ""];
  if (state.textContent !== text) {
    state.replaceChildren(make("span", { class: `tag ${kind}` }, text));
  }
  say(version, short(adapter.version || ""));
  say(canary, canaryOf(adapter));
  say(policy, policyOf(adapter.policy || {}));
  say(rank, adapter.max_rank ? String(adapter.max_rank) : "");
  say(size, Number(adapter.num_bytes) ? bytes(Number(adapter.num_bytes)) : "");
  say(requests, adapter.leases ? whole(adapter.leases) : "");
}

function canaryOf({ canary }) {
  if (!canary) {
    return "";
  }
  const share = canary.error ? "out of service" : `${rounded(100 * (canary.weight || 0))} %`;
  return `${short(canary.version)}, ${share}`;
}

function policyOf(policy) {
  const said = [
    policy.pinned && "pinned",
    (policy.weight ?? 1) !== 1 && `weight ${policy.weight}`,
    policy.max_running && `${policy.max_running} running`,
    policy.max_waiting && `${policy.max_waiting} waiting`,
    policy.tokens_per_minute && `${whole(policy.tokens_per_minute)} tokens/min`,
  ];
  return said.filter(Boolean).join(", ");
}

function showDetails(adapter) {
  say($("details-title"), adapter.adapter_id);
  const [state] = TIERS[adapter.state] || [""];
  const told = [
    ["State", state],
    ["Error", adapter.error],
    ["Version", adapter.version],
    ["Canary", adapter.canary && `${adapter.canary.version}, ${canaryOf(adapter).split(", ")[1]}`],
    ["Canary's error", adapter.canary?.error],
    ["Older versions", (adapter.older_versions || []).join("\n")],
    ["Policy", policyOf(adapter.policy || {}) || "no limits of its own"],
    ["Source", adapter.source],
    ["Made for", adapter.base_model_name],
    ["Rank", adapter.max_rank && String(adapter.max_rank)],
    ["Size", Number(adapter.num_bytes) && bytes(Number(adapter.num_bytes))],
    ["Loaded", adapter.loaded_at && new Date(adapter.loaded_at).toLocaleString()],
    ["Notes", (adapter.notes || []).join("\n")],
  ].filter(([, text]) => text);
  $("details-list").replaceChildren(
    ...told.flatMap(([name, text]) => [make("dt", {}, name), ...text.split("\n").map((one) => make("dd", {}, one))]),
  );
  $("details-ask").onclick = () => {
    $("details").close();
    choose(adapter.adapter_id);
    $("playground").focus();
  };
  $("details").showModal();
}

/** Keeps what is shown of adapters up to date; ends where the server does not let it. */
async function watchAdapters() {
  for (;;) {
    await seen();
    let wait = BETWEEN_MS;
    try {
      if (await pages.readOne()) {
        showAdapters();
      } else {
        wait = AGAIN_MS;
      }
    } catch (error) {
      if (error.status === 403) {
        return;
      }
      wait = Math.max(AGAIN_MS, error.waitMs || 0);
    }
    await pause(wait);
    if (wait === AGAIN_MS && isInView($("adapters"))) {
      pages.age(new Set(shownLines.map((line) => line.number)));
    }
  }
}

function isInView(element) {
  const { top, bottom } = element.getBoundingClientRect();
  return bottom > 0 && top < window.innerHeight;
}

function startAdapters() {
  for (const kind of Object.keys(KINDS)) {
    $("kind").append(make("option", {}, kind));
  }
  const again = () => {
    $("scroller").scrollTop = 0;
    showAdapters();
  };
  $("search").addEventListener("input", again);
  $("kind").addEventListener("change", again);
  $("filter").addEventListener("submit", (event) => event.preventDefault());
  $("scroller").addEventListener("scroll", showAdapters, { passive: true });
  $("details-close").addEventListener("click", () => $("details").close());
  watchAdapters();
}
