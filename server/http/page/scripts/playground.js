const MOST = 4;
const SUGGESTED = 50;
/** Adapters that are asked, "" for the base. */
const chosen = [""];
let running = null;

/** Takes an adapter among those that are asked. */
function choose(id) {
  if (chosen.includes(id)) {
    say($("said"), `${id || "The base model"} is among them already.`);
  } else if (chosen.length >= MOST) {
    say($("said"), `There are ${MOST} already: take one away first.`);
  } else {
    chosen.push(id);
    say($("said"), "");
  }
  showChosen();
}

function showChosen() {
  const chips = chosen.map((id) => {
    const name = id || "base model";
    const chip = make("button", { type: "button", title: id, "aria-label": `Take away ${name}` });
    chip.append(make("bdi", {}, name), " ×");
    chip.addEventListener("click", () => {
      chosen.splice(chosen.indexOf(id), 1);
      showChosen();
      $("add").focus();
    });
    return make("li", {}, chip);
  });
  if (!chosen.includes("") && chosen.length < MOST) {
    const base = make("button", { type: "button", class: "offer" }, "+ base model");
    base.addEventListener("click", () => choose(""));
    chips.push(make("li", {}, base));
  }
  $("chosen").replaceChildren(...chips);
  $("go").disabled = Boolean(running) || !chosen.length;
}

function add() {
  const id = $("add").value.trim();
  if (id) {
    choose(id);
    $("add").value = "";
    suggest();
  }
}

function suggest() {
  const word = $("add").value.trim().toLowerCase();
  const names = pages.lines
    .map(({ adapter }) => adapter.adapter_id)
    .filter((id) => id.toLowerCase().includes(word) && !chosen.includes(id));
  $("names").replaceChildren(...names.slice(0, SUGGESTED).map((value) => make("option", { value })));
}

/** Asks all that are chosen at once, each in a column of its own. */
async function ask() {
  running = new AbortController();
  $("stop").disabled = false;
  showChosen();
  say($("said"), `Asking ${counted(chosen.length, "model")} …`);
  const columns = chosen.map(makeColumn);
  $("answers").replaceChildren(...columns.map((column) => column.panel));
  const ends = await Promise.all(columns.map((column) => fill(column, running.signal)));
  running = null;
  $("stop").disabled = true;
  showChosen();
  say($("said"), ends.map((end, i) => `${columns[i].id || "Base model"}: ${end}.`).join(" "));
}

function makeColumn(id) {
  const text = make("div", { class: "text" });
  const facts = make("p", { class: "more" });
  const version = make("p", { class: "more" });
  const head = make("h3", {}, nameOf(id));
  return { id, text, facts, version, panel: make("article", { class: "panel answer runs" }, head, text, version, facts) };
}

/** Streams one answer into its column; gives how it ended. */
async function fill({ id, text, facts, version, panel }, signal) {
  const answer = new Answer();
  let end;
  try {
    const [path, body] = request(id);
    await answer.ask(path, body, signal, (piece, isReasoning) => {
      text.append(isReasoning ? make("span", { class: "more" }, piece) : piece);
      showVersion(version, answer.adapters);
    });
    end = answer.finish === "length" ? "cut at its most tokens" : "done";
    facts.textContent = `${answer.summary}; ${end}`;
  } catch (error) {
    end = error.name === "AbortError" ? "stopped" : error.message;
    text.classList.toggle("wrong", end !== "stopped");
    (end === "stopped" ? facts : text).append(end);
  }
  panel.classList.remove("runs");
  return end;
}

function showVersion(element, adapters) {
  say(element, adapters.map((one) => `version ${short(one.version || "")}`).join(", "));
}

/** Makes the call for one model: its path and its body. */
function request(model) {
  const prompt = $("prompt").value;
  const common = {
    model,
    max_tokens: Number($("most").value),
    temperature: Number($("temperature").value),
  };
  return $("as").value === "chat"
    ? ["v1/chat/completions", { ...common, messages: [{ role: "user", content: prompt }] }]
    : ["v1/completions", { ...common, prompt }];
}

function startPlayground() {
  showChosen();
  $("add").addEventListener("input", suggest);
  $("add").addEventListener("focus", suggest);
  $("add").addEventListener("keydown", (event) => {
    if (event.key === "Enter") {
      event.preventDefault();
      add();
    }
  });
  $("add-one").addEventListener("click", add);
  $("stop").addEventListener("click", () => running?.abort());
  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    ask();
  });
}
