const STATES = {
  SERVER_STATE_NOT_READY: ["waits for adapters", ""],
  SERVER_STATE_READY: ["ready", "good"],
  SERVER_STATE_DRAINING: ["draining", ""],
  SERVER_STATE_FAILED: ["failed", "bad"],
  SERVER_STATE_STALLED: ["a step hangs", "bad"],
};
const KEPT = 120;
/** Looks that there is room for at first. */
const FEWEST = 20;
/** Tokens/s of the last looks at the server, the newest last. */
const trend = [];
let lastSteps = null;

/** Shows what the server is. */
function showServer(status) {
  say($("version"), status.version || "");
  say($("base"), status.base_model || "");
  $("base").title = status.base_model || "";
  const [text, kind] = STATES[status.readiness?.state] || ["", ""];
  say($("state"), text);
  $("state").className = `state ${kind}`;
}

/** Shows what runs. */
function showNow(status) {
  const { load = {}, limits = {}, rates = {} } = status;
  showRates(rates);
  const running = load.running || 0;
  sayNumber($("rows"), whole(running), `of ${whole(limits.max_running || 0)}`);
  setPart($("rows-meter"), running, limits.max_running);
  say($("rows-more"), `${whole(load.waiting || 0)} waiting`);
  const used = load.kv_blocks_used || 0;
  sayNumber($("kv"), limits.kv_blocks ? rounded((100 * used) / limits.kv_blocks) : "0", "%");
  setPart($("kv-meter"), used, limits.kv_blocks);
  say($("kv-more"), `${whole(used)} of ${counted(limits.kv_blocks || 0, "block")}, ${whole(load.kv_blocks_cached || 0)} cached`);
  showSteps(Number(load.steps || 0), status.batch || {}, Number(load.preemptions || 0));
  showBatch(status.batch || {});
}

function showRates(rates) {
  const rate = rates.generated_tokens_per_s || 0;
  say($("rate"), rounded(rate));
  say($("rate-more"), `and ${rounded(rates.prompt_tokens_per_s || 0)} prompt tokens/s`);
  trend.push(rate);
  trend.splice(0, trend.length - KEPT);
  drawTrend();
  if (rates.ttft_requests) {
    sayNumber($("ttft"), ...duration(rates.ttft_p50_s || 0));
    const most = duration(rates.ttft_p99_s || 0).join(" ");
    say($("ttft-more"), `median; p99 ${most}, ${counted(rates.ttft_requests, "request")} of the last minute`);
  } else {
    say($("ttft"), "–");
    say($("ttft-more"), "no request in the last minute");
  }
}

function drawTrend() {
  const most = Math.max(...trend, 1);
  const room = Math.max(trend.length, FEWEST);
  const points = trend.map((rate, i) => {
    const x = (240 * (room - trend.length + i + 1)) / room;
    return `${x.toFixed(1)} ${(54 - (50 * rate) / most).toFixed(1)}`;
  });
  const first = points[0].split(" ")[0];
  $("trend-line").setAttribute("d", `M${points.join("L")}`);
  $("trend-area").setAttribute("d", `M${first} 56L${points.join("L")}L240 56Z`);
  $("trend").setAttribute("aria-label", `Tokens/s of the last two minutes, at most ${rounded(most)}`);
}

function showSteps(steps, batch, preemptions) {
  const now = performance.now();
  const passed = lastSteps ? (now - lastSteps.at) / 1000 : 0;
  sayNumber($("steps"), passed ? rounded((steps - lastSteps.steps) / passed) : "–", "per s");
  lastSteps = { steps, at: now };
  const age = batch.step_age_s ? `this one began ${duration(batch.step_age_s).join(" ")} ago` : "none runs now";
  say($("steps-more"), `${age}; ${counted(preemptions, "preemption")}`);
}

const SHOWN = 12;

function showBatch(batch) {
  const all = batch.adapters || [];
  const shown = all.slice(0, SHOWN);
  const most = Math.max(...all.map((one) => one.sequences), 1);
  $("batch").replaceChildren(
    ...shown.map((one) => {
      const meter = make("div", { class: "meter" });
      setPart(meter, one.sequences, most);
      const count = make("span", { class: "count" }, whole(one.sequences));
      return make("li", {}, nameOf(one.adapter_id || ""), meter, count);
    }),
  );
  const rest = all.slice(SHOWN);
  const more = rest.length + (batch.other_adapters || 0);
  const sequences = rest.reduce((sum, one) => sum + one.sequences, batch.other_sequences || 0);
  say($("batch-rest"), more ? `and ${counted(more, "other")} with ${counted(sequences, "sequence")}` : "");
  $("batch-none").hidden = all.length + more > 0;
}
