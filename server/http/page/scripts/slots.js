/** Slots above which cells are small. */
const MANY = 16;
/** Squares in a line of the picture of all adapters, and in all. */
const COLUMNS = 100;
const NARROW = 40;
const SQUARES = 2000;

/** Shows slots and tiers. */
function showSlots(status) {
  const { load = {}, limits = {} } = status;
  const slots = status.slots || [];
  const total = Math.max(limits.max_adapters || 0, slots.length);
  say($("device-more"), `${slots.length} of ${counted(total, "slot")} taken, ${bytes(Number(load.adapter_bytes || 0))}`);
  $("slot-cells").className = total > MANY ? "cells many" : "cells";
  const cells = slots.map(cellOf);
  for (let i = slots.length; i < total; i += 1) {
    cells.push(make("li", { class: "cell empty" }, "empty"));
  }
  $("slot-cells").replaceChildren(...cells);
  showTiers(load, limits, namesIn(slots), status.loading_adapter_ids || []);
}

/** How many names slots have: several may share a version, and one that has a canary has two. */
function namesIn(slots) {
  const told = slots.flatMap((slot) => slot.adapter_ids || []);
  const untold = slots.map((slot) =>
    slot.is_hidden ? 1 : (slot.adapter_ids_count || 0) - (slot.adapter_ids || []).length,
  );
  return untold.reduce((sum, count) => sum + count, new Set(told).size);
}

function cellOf(slot) {
  if (slot.is_hidden) {
    return make("li", { class: "cell empty" }, "outside this token's scope");
  }
  const ids = slot.adapter_ids || [];
  const running = slot.running || 0;
  const count = Math.max(ids.length, slot.adapter_ids_count || 0); // the first ids alone are told
  const more = count > 1 ? ` +${count - 1}` : "";
  const name = make("p", { class: "name", title: ids.join(", ") }, (ids[0] || "a former version") + more);
  const facts = [short(slot.version || ""), `rank ${slot.rank || 0}`, bytes(Number(slot.num_bytes || 0))];
  const last = make("p", { class: "last" }, running ? counted(running, "sequence") : "idle");
  if (slot.pinned) {
    last.append(make("span", { class: "tag pinned", title: "pinned" }, "pinned"));
  }
  const about = make("p", { class: "more" }, facts.join(" · "));
  return make("li", { class: running ? "cell running" : "cell" }, name, about, last);
}

function showTiers(load, limits, device, loadingIds) {
  const registered = load.registered_adapters || 0;
  const host = load.host_adapters || 0;
  const loading = load.loading_adapters || 0;
  const source = Math.max(0, registered - device - host - loading);
  const tiers = [
    ["device", device, `in slots`],
    ["host", host, `in host memory, ${bytes(Number(load.host_adapter_bytes || 0))}${ofHost(limits)}`],
    ["loading", loading, "loading"],
    ["source", source, "at their sources only"],
  ];
  drawTiers(tiers.map(([kind, count]) => [kind, count]));
  $("legend").replaceChildren(
    ...tiers.map(([kind, count, text]) =>
      make("li", {}, make("i", { class: `fill-${kind}` }), make("b", {}, whole(count)), ` ${text}`),
    ),
  );
  say($("loading"), `Now loading: ${loadingIds.join(", ")}`);
  $("loading").hidden = !loadingIds.length;
}

function ofHost(limits) {
  return limits.host_adapter_bytes ? ` of ${bytes(Number(limits.host_adapter_bytes))}` : "";
}

/** Draws a square for each adapter, or for as many as there must be for all to be seen. */
function drawTiers(tiers) {
  const total = tiers.reduce((sum, [, count]) => sum + count, 0);
  const each = Math.max(1, Math.ceil(total / SQUARES));
  const words = `${whole(total)}, a square for ${each === 1 ? "each" : each}`;
  say($("tiers-more"), total ? words : "none");
  const columns = $("waffle").clientWidth < 700 ? NARROW : COLUMNS;
  const shapes = [];
  let at = 0;
  for (const [kind, count] of tiers) {
    const end = at + Math.ceil(count / each);
    shapes.push(makeShape("path", { class: `fill-${kind}`, d: squares(at, end, columns) }));
    at = end;
  }
  const lines = Math.max(1, Math.ceil(at / columns));
  $("waffle").setAttribute("viewBox", `0 0 ${10 * columns} ${10 * lines}`);
  $("waffle").replaceChildren(...shapes);
}

/** Gives the path of the squares from one place to another, one after the other. */
function squares(start, end, columns) {
  let path = "";
  for (let i = start; i < end; i += 1) {
    path += `M${10 * (i % columns)} ${10 * Math.floor(i / columns)}h8v8h-8z`;
  }
  return path;
}
